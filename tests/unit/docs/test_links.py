"""The site's navigation has every page, and no link of the documentation leads nowhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
GLOBS = ("README.md", "docs/*.md", "packages/*/README.md", "packages/*/*/README.md")
PAGES = [page for glob in (*GLOBS, "examples/*/README.md") for page in sorted(ROOT.glob(glob))]

_FENCED = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(`+).+?\1", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(text: str) -> Iterator[str]:
    """Targets of links and images; what stands in code is none."""
    yield from _LINK.findall(_SPAN.sub("code", _FENCED.sub("", text)))


def anchors(text: str) -> set[str]:
    """Anchors of headings that the site and hosts of repositories name alike."""
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", _FENCED.sub("", text), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        if "  " not in words:  # one collapses the two spaces, the other does not
            found.add(words.replace(" ", "-"))
    return found


def dead(page: Path, text: str) -> list[str]:
    """Links of a page that lead to no file, or to no heading of it."""
    found = []
    for target in links(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            found.append(target)
    return found


def named(entry: Any) -> Iterator[str]:
    """The files of a navigation, in its order."""
    if isinstance(entry, str):
        yield entry
        return
    for part in entry.values() if isinstance(entry, dict) else entry:
        yield from named(part)


def test_the_navigation_has_every_page_once() -> None:
    nav = list(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(nav) == len(set(nav))
    assert set(nav) == {page.name for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_dead(page: Path) -> None:
    assert dead(page, page.read_text()) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `thing`\n[a](page.md#one-thing) [b](#two) [c](no.md) `[d](e.md)`\n")
    assert dead(page, page.read_text()) == ["#two", "no.md"]


def test_pages_link_to_one_another() -> None:
    counts = {page: len(list(links(page.read_text()))) for page in PAGES}
    assert counts[ROOT / "README.md"] > 10
    assert sum(counts.values()) > 60
