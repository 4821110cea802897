"""The playground in the package is the one that its sources make."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_playground_is_of_its_sources() -> None:
    command = [sys.executable, str(ROOT / "ci" / "web_digest.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_lock_file_names_no_registry() -> None:
    lock = (ROOT / "packages" / "server" / "web" / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
