"""A test run that leaves a process behind fails, and ends it."""

import os
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


def run(folder: Path, source: str, *options: str) -> "subprocess.CompletedProcess[str]":
    shutil.copy(CONFTEST, folder / "conftest.py")
    (folder / "test_one.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(
        [*command, "test_one.py"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "several"])
def test_a_process_left_behind_fails_the_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, LEAVES_ONE, *options)
    assert "1 passed" in done.stdout
    assert "ERROR: a test left this process behind" in done.stdout
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "several"])
def test_a_process_that_ended_is_no_harm(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, ENDS_ITS_OWN, *options)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
