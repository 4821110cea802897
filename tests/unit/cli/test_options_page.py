"""docs/options.md says what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "options.md"


def test_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "ci" / "options_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", sorted(p.name for p in (ROOT / "packages").iterdir()))
def test_every_environment_variable_of_ours_is_documented(package: str) -> None:
    """Those of core and server on the page, those of a backend there or in its own README."""
    folder = ROOT / "packages" / package
    used = set()
    for file in folder.rglob("*.py"):
        used |= set(re.findall(r"[\"'](TUPELO_[A-Z_]+)[\"']", file.read_text()))
    assert used or package != "core"
    text = PAGE.read_text()
    if package.startswith("backend-"):
        text += (folder / "README.md").read_text()
    assert not [name for name in used if f"`{name}`" not in text]
