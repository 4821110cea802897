"""docs/metrics.md and the dashboard say what the code says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BOARD = ROOT / "examples" / "monitoring" / "dashboard.json"


def test_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "ci" / "metrics_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dashboard_is_as_written(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import dashboard; print(dashboard.render())"
    )
    command = [sys.executable, "-c", code, str(ROOT / "ci")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == BOARD.read_text().strip(), "run: python ci/dashboard.py"
