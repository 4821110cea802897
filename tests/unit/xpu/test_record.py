"""The backend's answer on machines of all kinds, its record on a GPU that is made up, its light
import."""

import hashlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import tupelo_xpu
from tupelo_xpu.card import read_card
from tupelo_xpu.options import Options, hidden_by, read_options
from tupelo_xpu.vendor import Seen, why_not
from tupelo_xpu.vllm_ops import columns_first, supports

import tupelo
from tupelo.backend import Backend, Unavailable
from tupelo.errors import ConfigError
from tupelo.ops import OpCall

WORKING = Seen(
    torch="2.14.0+xpu", sycl="20260100", num_devices=1, node="open", loader=True, hidden=""
)
no_xpu = pytest.mark.skipif(torch.version.xpu is not None, reason="torch is built with XPU here")


@no_xpu
def test_unavailable_says_what_is_missing_at_once() -> None:
    began = time.process_time()
    answer = tupelo_xpu.backend()
    assert time.process_time() - began < 1.0
    assert isinstance(answer, Unavailable)
    assert "built without XPU; install" in answer.reason


MACHINES = {
    "another_torch": (replace(WORKING, sycl="", num_devices=0), "is built without XPU"),
    "no_driver": (replace(WORKING, num_devices=0, node="absent"), "modprobe xe"),
    "no_rights": (replace(WORKING, num_devices=0, node="closed"), "group render"),
    "no_level_zero": (replace(WORKING, num_devices=0, loader=False), "install the packages libze1"),
    "hidden": (
        replace(WORKING, num_devices=0, hidden="ZE_AFFINITY_MASK"),
        "ZE_AFFINITY_MASK hides",
    ),
    "old_driver": (replace(WORKING, num_devices=0), "recent enough for the GPU"),
    "no_torch_and_no_driver": (
        replace(WORKING, sycl="", num_devices=0, node="absent"),
        "is built without XPU",
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_first_mismatch_is_named_with_its_remedy(machine: str) -> None:
    seen, told = MACHINES[machine]
    assert told in why_not(seen)


def test_nothing_is_missing_where_torch_finds_a_gpu() -> None:
    assert why_not(WORKING) == ""
    assert why_not(replace(WORKING, num_devices=2, node="absent", loader=False)) == "", "as in WSL"


def test_the_record_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="Arc", total_memory=24 << 30, gpu_subslice_count=20)
    monkeypatch.setattr("tupelo_xpu.look", lambda: WORKING)
    monkeypatch.setattr("torch.xpu.get_device_properties", lambda device: card)
    answer = tupelo_xpu.backend()
    assert isinstance(answer, Backend)
    assert answer.check().capabilities.collective_library == "xccl"
    assert answer.capabilities.max_running == 128
    assert answer.capabilities.page_sizes[0] == 64
    assert answer.notes[0] == "Arc, 24 GiB, 20 Xe cores, driver unknown"


def test_a_gpu_that_cannot_be_opened_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: str) -> None:
        raise RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)")

    monkeypatch.setattr("tupelo_xpu.look", lambda: WORKING)
    monkeypatch.setattr("torch.xpu.get_device_properties", fail)
    answer = tupelo_xpu.backend()
    assert isinstance(answer, Unavailable)
    assert "cannot open it: level_zero backend failed with error: 20" in answer.reason


def test_what_an_older_torch_does_not_tell_is_assumed_to_be_little() -> None:
    card = read_card(SimpleNamespace(name="Arc", total_memory=8 << 30))
    assert (card.units, card.local_bytes, card.driver) == (8, 65536, "")


def test_importing_and_asking_touch_nothing_of_core() -> None:
    """No vendor library is loaded, and core's files and modules are the same before and after."""
    code = (
        "import sys, tupelo.backend as core\n"
        "before = {n: id(m) for n, m in sys.modules.items() if n.startswith('tupelo.')}\n"
        "parts = {n: id(v) for n, v in vars(core).items()}\n"
        "import tupelo_xpu\n"
        "tupelo_xpu.backend()\n"
        "same = all(id(sys.modules[n]) == i for n, i in before.items())\n"
        "same = same and parts == {n: id(v) for n, v in vars(core).items() if n in parts}\n"
        "names = ('vllm_xpu_kernels', 'intel_extension_for_pytorch', 'triton')\n"
        "print(same, [m for m in names if m in sys.modules])\n"
    )
    files = _hashes()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if torch.version.xpu is None:
        assert done.stdout.strip() == "True []"
    assert _hashes() == files


def _hashes() -> dict[str, str]:
    root = Path(tupelo.__file__).parent
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*.py")}


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ATTENTION", "GRAPHS", "LINEAR", "KERNELS")
    for name in names:
        monkeypatch.delenv(f"TUPELO_XPU_{name}", raising=False)
    assert read_options() == Options()
    for name, value in zip(names, ("triton", "0", "onednn", "ipex"), strict=True):
        monkeypatch.setenv(f"TUPELO_XPU_{name}", value)
    assert read_options() == Options(
        attention="triton", graphs=False, measured_linear=False, vllm=False, ipex=True
    )
    monkeypatch.setenv("TUPELO_XPU_ATTENTION", "magic")
    with pytest.raises(ConfigError, match=r"TUPELO_XPU_ATTENTION.*magic.*vllm"):
        read_options()


def test_a_variable_that_may_hide_all_gpus_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK"):
        monkeypatch.delenv(name, raising=False)
    assert hidden_by() == ""
    monkeypatch.setenv("ZE_AFFINITY_MASK", "")
    assert hidden_by() == "ZE_AFFINITY_MASK"
    monkeypatch.setenv("ONEAPI_DEVICE_SELECTOR", "opencl:cpu")
    assert hidden_by() == "ONEAPI_DEVICE_SELECTOR"


def test_refusals_say_why() -> None:
    def why(op: str, *shape: int, dtype: str = "bfloat16", **statics: str) -> str | None:
        return supports(OpCall(op=op, dtype=dtype, shape=shape, statics=tuple(statics.items())))

    assert why("rms_norm", 64) is None
    assert "not float32" in str(why("rms_norm", 64, dtype="float32"))
    assert "takes the norm's weight in" in str(why("rms_norm", 64, norm_dtype="float32"))
    assert why("moe_route", 128, 8, dtype="float32") is None
    assert "no kernel for 3 of 13" in str(why("moe_route", 13, 3))
    assert "rounds scores by sigmoid" in str(why("moe_route", 8, 2, scoring="sigmoid"))
    assert why("moe_experts", 8, 2, 64, 32, activation="silu") is None
    assert "not of 3" in str(why("moe_experts", 8, 3, 64, 32))
    assert "multiples of 8" in str(why("moe_experts", 8, 2, 64, 30))
    assert "not swiglu_clamped" in str(
        why("moe_experts", 8, 2, 64, 32, activation="swiglu_clamped")
    )


def test_experts_weights_are_laid_out_once_and_stay_what_they_are() -> None:
    weight = torch.arange(24.0).view(2, 3, 4)
    same = weight.clone()
    first = columns_first(weight)
    assert first.shape == (2, 4, 3)
    assert first.is_contiguous()
    assert torch.equal(weight, same)
    assert columns_first(weight).data_ptr() == first.data_ptr() == weight.data_ptr()
