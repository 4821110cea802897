"""What counts as a line of code in the traced path."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[3] / "ci" / "request_path.py"
SOURCE = '''"""Module
docstring."""

# a comment
import os  # 5

VALUE = """a string
over two lines"""  # 7, 8


def function(
    first: int,  # 12
) -> int:
    """Docstring."""

    return first  # 16
'''


@pytest.fixture(scope="module")
def tracer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("request_path", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_code_lines(tracer: ModuleType) -> None:
    assert tracer.code_lines(SOURCE) == {5, 7, 8, 11, 12, 13, 16}
    assert tracer.code_lines("") == set()


def test_a_statement_counts_whole_and_a_compound_one_by_its_head(tracer: ModuleType) -> None:
    assert tracer.lines_passed(SOURCE, {11}) == {11, 12, 13}
    assert tracer.lines_passed(SOURCE, {8, 16}) == {7, 8, 16}
    assert tracer.lines_passed(SOURCE, set()) == set()
