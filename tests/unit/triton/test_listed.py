"""Which ops have a portable kernel, read from the list's source: this much needs no triton."""

import ast
from pathlib import Path

import tupelo
from tupelo.ops import OPS

TORCH_ONLY = {"moe_route", "copy_pages"}
"""Ops without a portable kernel: torch's own are as good."""


def test_every_op_but_two_is_in_the_list() -> None:
    assert listed() == set(OPS) - TORCH_ONLY


def listed() -> set[str]:
    """Names in ``_FUNCTIONS``, and ops of the records that are written out."""
    source = Path(tupelo.__path__[0]) / "triton" / "kernels.py"
    found = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        match node:
            case ast.Assign(targets=[ast.Name(id="_FUNCTIONS")], value=ast.Tuple(elts=functions)):
                found |= {one.id for one in functions if isinstance(one, ast.Name)}
            case ast.keyword(arg="op", value=ast.Constant(value=str(op))):
                found.add(op)
    return found
