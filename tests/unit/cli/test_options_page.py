"""docs/options.md says what the code says."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "options.md"


def test_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "ci" / "options_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_page_names_every_environment_variable_of_ours() -> None:
    used = set()
    for file in (ROOT / "packages").rglob("*.py"):
        used |= set(re.findall(r"[\"'](TUPELO_[A-Z_]+)[\"']", file.read_text()))
    assert "TUPELO_BACKEND" in used
    page = PAGE.read_text()
    assert not [name for name in used if f"`{name}`" not in page]
