"""The sample backend of examples/: small, and green in the conformance kit."""

import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[3] / "examples" / "sample-backend" / "src"


def test_it_is_under_300_lines() -> None:
    lines = sum(len(file.read_text().splitlines()) for file in SOURCES.rglob("*.py"))
    assert 0 < lines < 300


def test_the_kit_is_green() -> None:
    command = [sys.executable, "-m", "tupelo.conformance", "--backend", "tupelo_sample:backend"]
    done = subprocess.run(
        [*command, "--level", "0,1,2"],
        env={
            **os.environ,
            "PYTHONPATH": f"{SOURCES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sample: green" in done.stdout
