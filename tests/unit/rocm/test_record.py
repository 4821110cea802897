"""The backend's answer on machines of all kinds, its record on a card that is made up, its light
import."""

import hashlib
import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import tupelo_rocm
from tupelo_rocm.arch import KNOWN, TESTED, find_arch
from tupelo_rocm.options import Options, hidden_by, read_options
from tupelo_rocm.vendor import KFD, Seen, why_not

import tupelo
from tupelo.backend import Backend, Unavailable
from tupelo.errors import ConfigError

WORKING = Seen(torch="2.13.0+rocm7.1", hip="7.1.25424", num_devices=1, node="open")

no_rocm = pytest.mark.skipif(torch.version.hip is not None, reason="torch is built with ROCm here")


@no_rocm
def test_unavailable_says_what_is_missing_at_once() -> None:
    began = time.perf_counter()
    answer = tupelo_rocm.backend()
    assert time.perf_counter() - began < 1.0
    assert isinstance(answer, Unavailable)
    assert "built without ROCm" in answer.reason
    assert "install" in answer.reason


MACHINES = {
    "another_torch": (replace(WORKING, hip="", num_devices=0), "is built without ROCm"),
    "hidden": (replace(WORKING, num_devices=0, hidden="HIP_VISIBLE_DEVICES"), "HIP_VISIBLE"),
    "no_driver": (replace(WORKING, num_devices=0, node="absent"), f"{KFD} is absent"),
    "no_rights": (replace(WORKING, num_devices=0, node="closed"), "groups render and video"),
    "other_rocm": (replace(WORKING, num_devices=0), "rocminfo"),
    "no_torch_and_no_driver": (
        replace(WORKING, hip="", num_devices=0, node="absent"),
        "is built without ROCm",
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_first_mismatch_is_named_with_its_remedy(machine: str) -> None:
    seen, told = MACHINES[machine]
    assert told in why_not(seen)


def test_nothing_is_missing_where_torch_finds_a_card() -> None:
    assert why_not(WORKING) == ""
    assert why_not(replace(WORKING, num_devices=8, node="absent")) == "", "as under WSL"


def _card(monkeypatch: pytest.MonkeyPatch, name: str, **more: object) -> None:
    """A machine whose only card is of this architecture."""
    card = SimpleNamespace(
        name="AMD Instinct",
        gcnArchName=name,
        warp_size=64,
        shared_memory_per_block=65536,
        total_memory=192 << 30,
        multi_processor_count=304,
        **more,
    )
    monkeypatch.setattr(torch.version, "hip", "7.1.25424")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: card)


def test_the_record_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    _card(monkeypatch, "gfx942:sramecc+:xnack-")
    answer = tupelo_rocm.backend()
    assert isinstance(answer, Backend)
    assert answer.check().capabilities.collective_library == "nccl"
    assert answer.capabilities.max_running == 512
    assert any("gfx942 (CDNA 3): waves of 64, 64 KiB" in note for note in answer.notes)


def test_an_unknown_card_is_a_warning_and_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _card(monkeypatch, "gfx1330")
    with caplog.at_level(logging.WARNING):
        answer = tupelo_rocm.backend()
    assert isinstance(answer, Backend)
    assert "gfx1330 is an architecture that this backend does not know" in caplog.text
    assert any("gfx1330: unknown" in note for note in answer.notes)


def test_architectures_have_the_sizes_of_a_tested_one() -> None:
    assert set(TESTED) == {"gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"}
    for name, arch in KNOWN.items():
        assert arch.name == name
        like = TESTED[arch.like]
        assert (arch.wave, arch.lds_bytes) == (like.wave, like.lds_bytes)
        assert arch.is_cdna == name.startswith("gfx9")
    assert find_arch("gfx1330").wave == 32
    assert find_arch("gfx9ff:xnack+").wave == 64
    assert find_arch("gfx1250", 32, 320 << 10).lds_bytes == 320 << 10
    assert find_arch("").like == ""


def test_importing_and_asking_touch_nothing_of_core() -> None:
    """No vendor library is loaded, and core's files and modules are the same before and after."""
    code = (
        "import sys, tupelo.backend as core\n"
        "before = {n: id(m) for n, m in sys.modules.items() if n.startswith('tupelo.')}\n"
        "parts = {n: id(v) for n, v in vars(core).items()}\n"
        "import tupelo_rocm\n"
        "tupelo_rocm.backend()\n"
        "same = all(id(sys.modules[n]) == i for n, i in before.items())\n"
        "same = same and parts == {n: id(v) for n, v in vars(core).items() if n in parts}\n"
        "print(same, [m for m in ('aiter', 'triton') if m in sys.modules])\n"
    )
    files = _hashes()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if torch.version.hip is None:
        assert done.stdout.strip() == "True []"
    assert _hashes() == files


def _hashes() -> dict[str, str]:
    root = Path(tupelo.__file__).parent
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*.py")}


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ATTENTION", "GRAPHS", "PREFIX_GROUPS", "LINEAR", "AITER")
    for name in names:
        monkeypatch.delenv(f"TUPELO_ROCM_{name}", raising=False)
    assert read_options() == Options()
    for name, value in zip(names, ("ck", "prompts", "0", "hipblas", "0"), strict=True):
        monkeypatch.setenv(f"TUPELO_ROCM_{name}", value)
    assert read_options() == Options(
        attention="ck",
        prompt_graphs=True,
        prefix_groups=False,
        measured_linear=False,
        aiter=False,
    )
    monkeypatch.setenv("TUPELO_ROCM_ATTENTION", "magic")
    with pytest.raises(ConfigError, match=r"TUPELO_ROCM_ATTENTION.*magic.*aiter"):
        read_options()


def test_a_variable_that_hides_all_cards_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert hidden_by() == ""
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0,1")
    assert hidden_by() == ""
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert hidden_by() == "HIP_VISIBLE_DEVICES"
