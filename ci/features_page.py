"""Writes docs/features.md from ci/features.tsv: ``python ci/features_page.py``.

With ``--check`` it writes nothing and says whether the page is up to date. Either way every route
and option that a row names must exist, and so must every test.

Columns: area, feature, weight (P0 to P2), by (routes, options, fields), proof (tests under tests/,
or ``later: THEME``); several in one cell are separated by spaces.
"""

import ast
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from starlette.routing import Route

from tupelo.config import EngineConfig
from tupelo_server.app import ROUTERS
from tupelo_server.config import ServerConfig

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "ci" / "features.tsv"
PAGE = ROOT / "docs" / "features.md"

_INTRODUCTION = """# Features

Written by `python ci/features_page.py` from `ci/features.tsv`; do not edit it here. What users of
SGLang and of the OpenAI API expect, by which route, option or field it is had, and the tests that
prove it. P0 to P2 is its weight. What is not there yet says under which theme it comes.
"""


@dataclass(frozen=True, slots=True)
class Feature:
    """One row."""

    area: str
    feature: str
    weight: str
    by: tuple[str, ...]
    tests: tuple[str, ...]
    later: str


def main() -> int:
    """Write or check the page; 1 if it is stale or a row is wrong."""
    rows = list(read_table())
    problems = [f"{row.area}: {row.feature}: {p}" for row in rows for p in _problems(row)]
    page = _render(rows)
    if "--check" not in sys.argv:
        PAGE.write_text(page, "utf-8")
    elif not PAGE.is_file() or PAGE.read_text("utf-8") != page:
        problems.append("docs/features.md is stale: run python ci/features_page.py")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def read_table() -> Iterator[Feature]:
    """The rows of the table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", strict=True):
            proof = row["proof"]
            later = proof.removeprefix("later: ") if proof.startswith("later: ") else ""
            yield Feature(
                area=row["area"],
                feature=row["feature"],
                weight=row["weight"],
                by=tuple(row["by"].split()),
                tests=() if later else tuple(proof.split()),
                later=later,
            )


def _problems(row: Feature) -> Iterator[str]:
    if not row.tests and not row.later:
        yield "neither a test nor a theme"
    if row.later:
        return  # its routes and options do not exist yet
    for name in row.by:
        if name.startswith("/") and name not in _ROUTES:
            yield f"no route {name}"
        if name.startswith("--") and name[2:].replace("-", "_") not in _OPTIONS:
            yield f"no option {name}"
    yield from (f"no test {test}" for test in row.tests if not _exists(test))


_ROUTES = {r.path for router in ROUTERS for r in router.routes if isinstance(r, Route)}
_OPTIONS = {f.name for kind in (EngineConfig, ServerConfig) for f in fields(kind)}


def _exists(test: str) -> bool:
    """Whether ``file.py::name`` is a test function below tests/."""
    path, _, name = test.partition("::")
    file = ROOT / "tests" / path
    if not file.is_file():
        return False
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    nodes = ast.walk(ast.parse(file.read_text("utf-8")))
    return any(isinstance(node, kinds) and node.name == name for node in nodes)


def _render(rows: list[Feature]) -> str:
    parts = [_INTRODUCTION]
    for area in dict.fromkeys(row.area for row in rows):
        parts.append(
            f"\n## {area}\n\n| feature | by | weight | proof |\n| --- | --- | --- | --- |\n"
        )
        parts += [_line(row) for row in rows if row.area == area]
    return "".join(parts)


def _line(row: Feature) -> str:
    by = " ".join(f"`{name}`" for name in row.by)
    tests = "<br>".join(f"`{test}`" for test in row.tests)
    proof = f"later: {row.later}" if row.later else tests
    return f"| {row.feature} | {by} | {row.weight} | {proof} |\n"


if __name__ == "__main__":
    sys.exit(main())
