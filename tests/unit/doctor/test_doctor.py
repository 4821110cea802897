"""``tupelo doctor`` in faked environments: the first thing that is wrong, and who serves instead.

A backend's environments are a table of its own beside this file.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.doctor import cpu, cuda, npu, rocm, tpu, xpu
from tests.unit.doctor.faked import Environment, forget, pretend

from tupelo import cli
from tupelo.backend import find_backend
from tupelo.config import EngineConfig
from tupelo.conformance.levels.engine import llama
from tupelo.engine import Engine

ENVIRONMENTS = [
    pytest.param(environment, id=f"{table.__name__.rpartition('.')[2]}-{environment.id}")
    for table in (cpu, cuda, npu, rocm, tpu, xpu)
    for environment in table.ENVIRONMENTS
]
BROKEN_TORCH = 'raise OSError("libtorch_cpu.so: cannot open shared object file")\n'


def lines_of(backend: str, printed: str) -> str:
    """What doctor says of one backend; everything for ""."""
    if not backend:
        return printed
    found = re.search(rf"^  {backend} \(.*?(?=^  \w|^\w|^$)", printed, re.DOTALL | re.MULTILINE)
    assert found is not None, printed
    return found[0]


def serves() -> None:
    """The backend that is found computes two tokens."""
    config = EngineConfig(dtype="float32", max_total_tokens=64, max_running_requests=1)
    params = {"max_new_tokens": 2, "temperature": 0, "ignore_eos": True}
    with Engine(config, backend=find_backend(), source=llama(16)) as engine:
        reply = engine.generate(input_ids=[1, 2, 3], sampling_params=params)
    assert len(reply["output_ids"]) == 2


@pytest.fixture
def faked(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Environment]:
    environment: Environment = request.param
    pretend(environment, monkeypatch, tmp_path)
    yield environment
    forget(environment)


@pytest.mark.parametrize("faked", ENVIRONMENTS, indirect=True)
def test_the_first_mismatch_and_who_serves(
    faked: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor"]) == (0 if faked.chosen else 1)
    printed = capsys.readouterr().out
    assert faked.says in lines_of(faked.backend, printed)
    chosen = re.findall(r"^  (\w+) \(.*: usable, chosen$", printed, re.MULTILINE)
    assert chosen == ([faked.chosen] if faked.chosen else [])
    if faked.chosen == "cpu":
        serves()


def test_there_are_twenty() -> None:
    assert len(ENVIRONMENTS) >= 20


def test_torch_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(BROKEN_TORCH)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "tupelo", "doctor"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "torch cannot be imported: libtorch_cpu.so: cannot open shared object" in done.stdout
    assert "Traceback" not in done.stderr
