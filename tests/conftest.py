"""What every test may use: the demo model, the shared format data, and a watch on processes.

Imports no torch, so that collecting and running one small test stays quick.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
MARK = "TUPELO_TEST_SESSION"
_GRACE_S = 5.0
_own_mark = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file: ``TUPELO_DEMO_GGUF``, or downloaded into the cache."""
    named = os.environ.get("TUPELO_DEMO_GGUF")
    if named:
        return Path(named)
    from tupelo.checkpoint import demo_model
    from tupelo.errors import CheckpointError

    offline = os.environ.get("TUPELO_OFFLINE") == "1"
    try:
        return demo_model(offline=offline, progress=False)
    except CheckpointError as error:
        if offline:
            pytest.skip(f"TUPELO_OFFLINE=1 and the demo model is not in the cache: {error}")
        raise


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as a folder: ``TUPELO_MINILM``, or downloaded into the cache."""
    from tests.minilm import minilm_folder

    try:
        return minilm_folder()
    except RuntimeError as error:
        if os.environ.get("TUPELO_OFFLINE") == "1":
            pytest.skip(f"TUPELO_OFFLINE=1 and the embedding model is not in the cache: {error}")
        raise


@pytest.fixture(scope="session")
def formats_dir() -> Path:
    """Reference data of other projects: ``TUPELO_FORMATS``, or a folder beside the workspace."""
    folder = Path(os.environ.get("TUPELO_FORMATS") or ROOT.parent / "shared" / "formats")
    if not (folder / "golden.json").is_file():
        pytest.skip(f"no format data in {folder}; set TUPELO_FORMATS to the folder that holds it")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Mark this session's environment, which every process that a test starts inherits.

    Where tests run in several processes (``pytest -n``), those inherit the mark of the first.
    """
    if not hasattr(config, "workerinput"):
        config.stash[_own_mark] = os.environ[MARK] = uuid.uuid4().hex


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session, and end the processes, where tests left any running."""
    if _own_mark not in session.config.stash:
        return
    left = list(left_processes(session.config.stash[_own_mark]))
    _, left = psutil.wait_procs(left, timeout=_GRACE_S)
    if not left:
        return
    lines = [_described(process) for process in left]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=_GRACE_S)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line("")
        for line in lines:
            reporter.write_line(f"ERROR: a test left this process behind: {line}", red=True)


def left_processes(mark: str) -> Iterator[psutil.Process]:
    """Running processes other than this one whose environment has ``mark``, orphans included."""
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.environ().get(MARK) != mark:
                continue
            # Python's own helper of multiprocessing, which lives as long as its parent.
            if any("resource_tracker" in part for part in process.cmdline()):
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:  # gone meanwhile, or another user's
            continue


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"{process.pid}: (ended meanwhile)"
