"""What counts as a line of code in the traced path."""

import importlib.util
from pathlib import Path

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


def test_code_lines() -> None:
    spec = importlib.util.spec_from_file_location("request_path", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.code_lines(SOURCE) == {5, 7, 8, 11, 12, 13, 16}
    assert module.code_lines("") == set()
