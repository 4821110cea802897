"""The backend without its vendor's libraries: its answer, how fast, and what it leaves alone."""

import hashlib
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import tupelo_tpu
from tupelo_tpu.options import Options, read_options
from tupelo_tpu.vendor import why_not

import tupelo
from tupelo.backend import Backend, Unavailable
from tupelo.errors import ConfigError

bare = pytest.mark.skipif(find_spec("torch_xla") is not None, reason="torch-xla is installed here")


@bare
def test_unavailable_says_what_is_missing_at_once() -> None:
    began = time.process_time()
    answer = tupelo_tpu.backend()
    assert time.process_time() - began < 1.0
    assert isinstance(answer, Unavailable)
    assert "torch-xla is not installed" in answer.reason
    assert "pip install" in answer.reason


@pytest.mark.skipif(find_spec("torch_xla") is None, reason="torch-xla is not installed here")
def test_the_record_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    answer = tupelo_tpu.backend()
    assert isinstance(answer, Backend)
    assert answer.check().capabilities.functional_kv
    assert answer.capabilities.priority < 0, "XLA's CPU device serves those alone who name it"


def test_reasons_come_in_the_order_of_their_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch-xla": "2.9.0", "torch": "2.9.0+cpu", "libtpu": "0.0.21"}
    monkeypatch.setattr("tupelo_tpu.vendor.find_spec", lambda name: name != "libtpu" or None)
    monkeypatch.setattr("tupelo_tpu.vendor.version", installed.__getitem__)
    assert "libtpu is not installed" in why_not(Options(), chips=["/dev/accel0"])
    assert "there is no TPU" in why_not(Options(), chips=[])
    assert "PJRT_DEVICE=CPU" in why_not(Options(device="TPU"), chips=[])
    assert why_not(Options(device="CPU"), chips=[]) == ""
    installed["torch"] = "2.13.0+cpu"
    reason = why_not(Options(device="CPU"))
    assert "torch-xla 2.9 needs torch 2.9" in reason
    assert "2.13" in reason


def test_importing_and_asking_touch_nothing_of_core() -> None:
    """No vendor library is loaded, and core's files and modules are the same before and after."""
    code = (
        "import sys, tupelo.backend as core\n"
        "before = {n: id(m) for n, m in sys.modules.items() if n.startswith('tupelo.')}\n"
        "parts = {n: id(v) for n, v in vars(core).items()}\n"
        "import tupelo_tpu\n"
        "tupelo_tpu.backend()\n"
        "same = all(id(sys.modules[n]) == i for n, i in before.items())\n"
        "same = same and parts == {n: id(v) for n, v in vars(core).items() if n in parts}\n"
        "print(same, [m for m in ('torch_xla', 'jax', 'libtpu') if m in sys.modules])\n"
    )
    files = _hashes()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if find_spec("torch_xla") is None:
        assert done.stdout.strip() == "True []"
    assert _hashes() == files


def _hashes() -> dict[str, str]:
    root = Path(tupelo.__file__).parent
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*.py")}


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PJRT_DEVICE", "TUPELO_TPU_ATTENTION"):
        monkeypatch.delenv(name, raising=False)
    assert read_options() == Options(device="", attention="auto")
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    monkeypatch.setenv("TUPELO_TPU_ATTENTION", "pallas")
    assert read_options() == Options(device="CPU", attention="pallas")
    monkeypatch.setenv("PJRT_DEVICE", "CUDA")
    with pytest.raises(ConfigError, match=r"PJRT_DEVICE.*CUDA.*TPU, CPU"):
        read_options()


@pytest.mark.parametrize(
    ("name", "value"), [("PJRT_DEVICE", "CPU"), ("TUPELO_TPU_ATTENTION", "pallas")]
)
def test_what_a_route_lacks_is_refused_with_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUPELO_TPU_ROUTE", "torch-tpu")
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    monkeypatch.delenv("TUPELO_TPU_ATTENTION", raising=False)
    assert read_options() == Options(route="torch-tpu")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        read_options()
