"""A test run that leaves a process behind fails, and ends it."""

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

CONFTEST = Path(__file__).resolve().parents[2] / "conftest.py"
LEAVES_ONE = """
import subprocess, sys
from pathlib import Path

def test_passes():
    code = "import time; print(flush=True); time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE
    )
    with child.stdout:
        child.stdout.readline()  # before it runs, its environment cannot be read
    Path("pid").write_text(str(child.pid))
    child.returncode = 0  # else Popen warns when it is collected
"""
ENDS_ITS_OWN = """
import subprocess, sys

def test_passes():
    subprocess.run([sys.executable, "-c", "pass"], check=True)
"""


def run(folder: Path, source: str) -> "subprocess.CompletedProcess[str]":
    shutil.copy(CONFTEST, folder / "conftest.py")
    (folder / "test_one.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_one.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_process_left_behind_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, LEAVES_ONE)
    assert "1 passed" in done.stdout
    assert "ERROR: a test left this process behind" in done.stdout
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_ended_is_no_harm(tmp_path: Path) -> None:
    done = run(tmp_path, ENDS_ITS_OWN)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
