"""The page of features: every row proved, and nothing on it that is not there."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_up_to_date_and_every_row_holds() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "ci" / "features_page.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
