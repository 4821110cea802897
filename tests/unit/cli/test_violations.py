"""The checks of the tree check: each is shown a violation of its kind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "ci" / "cpu" / "violations.sh"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_planted_violation_turns_its_check_red() -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        env={**os.environ, "TUPELO_VENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every violation turns its check red" in done.stdout
