"""Requests of every kind and size need no kernel that warming up has not built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_no_kernel_is_built_late(model: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    script = Path(__file__).with_name("late_builds.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), model],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, *late = done.stdout.splitlines()
    assert int(first.split()[0]) > 20
    assert late == []
