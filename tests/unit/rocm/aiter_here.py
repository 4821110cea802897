"""AMD's AITER where there is no GPU: its Triton modules, imported past its package's own start,
which builds a module in HIP; and the signatures of its other functions, read from their source.

Only for processes that interpret Triton's kernels, or compile them for a target that is named.
"""

import ast
import inspect
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

try:
    RELEASE = version("amd-aiter")
except PackageNotFoundError:
    RELEASE = ""

needs_aiter = pytest.mark.skipif(not RELEASE, reason="amd-aiter is not installed")

UNITS = 304
"""Compute units of the MI300X, whose sizes AITER has."""


def enter(arch: str = "gfx942") -> None:
    """Make ``aiter.ops.triton`` importable, on a card that isn't there."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    if "aiter" not in sys.modules:
        package = ModuleType("aiter")
        package.__path__ = [str(_folder())]
        sys.modules["aiter"] = package
    card = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("hip", arch, 64),
    )
    driver.set_active(card)
    properties = SimpleNamespace(multi_processor_count=UNITS, gcnArchName=arch)
    torch.get_device_module("cuda").current_device = lambda: 0
    torch.get_device_module("cuda").get_device_properties = lambda device=0: properties


def signature(modules: tuple[str, ...], name: str) -> inspect.Signature:
    """Of the function in the first of these modules that there is, as its source has it."""
    for module in modules:
        file = _folder().parent / (module.replace(".", "/") + ".py")
        if not file.is_file():
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return _signature(node.args)
    raise AssertionError(f"AITER {RELEASE} has no {name}")


def _signature(args: ast.arguments) -> inspect.Signature:
    kinds = inspect.Parameter
    plain = [*args.posonlyargs, *args.args]
    first_default = len(plain) - len(args.defaults)
    found = [
        kinds(
            a.arg,
            kinds.POSITIONAL_OR_KEYWORD,
            default=None if i >= first_default else kinds.empty,
        )
        for i, a in enumerate(plain)
    ]
    assert args.vararg is None
    assert args.kwarg is None
    found += [
        kinds(a.arg, kinds.KEYWORD_ONLY, default=kinds.empty if d is None else None)
        for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return inspect.Signature(found)


def _folder() -> Path:
    """AITER's package."""
    if "aiter" in sys.modules:
        return Path(next(iter(sys.modules["aiter"].__path__)))
    found = find_spec("aiter")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
