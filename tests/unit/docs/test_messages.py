"""Every message that docs/troubleshooting.md explains is one that the program can say."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
MESSAGES = re.findall(r"^\| `([^`]+)` \| ", PAGE, re.MULTILINE)


def texts(node: ast.AST) -> Iterator[str]:
    """The string constants of a tree, with ``…`` for what is put into them."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.sub(r"%[sd]", "…", node.value)
    for child in ast.iter_child_nodes(node):
        if not isinstance(node, ast.JoinedStr):
            yield from texts(child)


@pytest.fixture(scope="module")
def said() -> str:
    """All that the packages and the scripts of a set-up may say, a text a line."""
    found = [(ROOT / "ci" / "setup.sh").read_text().replace("\n", " ")]
    for file in sorted((ROOT / "packages").glob("*/src/**/*.py")):
        for text in texts(ast.parse(file.read_text())):
            found.append(text.replace("\n", " "))
    return "\n".join(found)


def pattern(message: str) -> "re.Pattern[str]":
    """What a source's text must match to be this message."""
    return re.compile("[^\n]*".join(re.escape(part) for part in message.split("…")))


def test_the_source_has_every_message(said: str) -> None:
    assert [m for m in MESSAGES if not pattern(m).search(said)] == []


def test_messages_can_be_told_apart() -> None:
    assert [m for m in MESSAGES if sum(len(part) for part in m.split("…")) < 10] == []


def test_the_page_has_them_all() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    heads = [row for row in rows if row.startswith(("| message", "| ---"))]
    assert len(MESSAGES) == len(set(MESSAGES)) == len(rows) - len(heads) > 60


def test_another_message_is_missed(said: str) -> None:
    assert not pattern("cannot listen … on a Sunday").search(said)
