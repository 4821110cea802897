"""The backend's answer on machines of all kinds, its record on an NPU that is made up, its light
import."""

import hashlib
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import tupelo_npu
from tests.unit.npu import stand_ins
from tupelo_npu import vendor
from tupelo_npu.options import Options, cann_home, hidden_by, read_options
from tupelo_npu.vendor import DRIVER, MANAGER, Seen, cann_version, numbers, why_not

import tupelo
from tupelo.backend import Backend, Unavailable
from tupelo.errors import BackendUnavailable, ConfigError

stand_ins.install()

WORKING = Seen(
    torch="2.13.0+cpu",
    torch_npu="2.13.0",
    driver="25.5.1",
    node="open",
    num_devices=8,
    cann="8.5.0",
    sourced=True,
)
without_torch_npu = pytest.mark.skipif(
    find_spec("torch_npu") is not None, reason="torch-npu is installed here"
)


@without_torch_npu
def test_unavailable_says_what_is_missing_at_once() -> None:
    began = time.perf_counter()
    answer = tupelo_npu.backend()
    assert time.perf_counter() - began < 10.0
    assert isinstance(answer, Unavailable)
    assert answer.reason.startswith("torch-npu is not installed; pip install")


MACHINES: dict[str, tuple[dict[str, Any], str]] = {
    "no_torch_npu": ({"torch_npu": ""}, 'pip install "tupelo-backend-npu[vendor]"'),
    "another_torch": ({"torch": "2.12.1"}, 'pip install "torch==2.13.*" "torch-npu==2.13.*"'),
    "post_release": ({"torch_npu": "2.8.0.post2"}, "torch-npu 2.8.0.post2 needs torch 2.8"),
    "no_driver": ({"node": "absent"}, f"{MANAGER} is absent: install the Ascend driver"),
    "no_rights": ({"node": "closed"}, "add them to the group HwHiAiUser"),
    "no_card_in_the_container": ({"num_devices": 0}, "--device=/dev/davinci0"),
    "hidden": ({"hidden": "ASCEND_RT_VISIBLE_DEVICES"}, "ASCEND_RT_VISIBLE_DEVICES hides"),
    "driver_not_mounted": ({"driver": ""}, f"{DRIVER} is absent: mount the driver"),
    "old_driver": ({"driver": "24.1.rc3.b999"}, "driver 24.1.rc3.b999 is older than CANN 8.5"),
    "no_cann": ({"cann": "", "sourced": False}, "CANN is not installed"),
    "old_cann": ({"cann": "8.2.RC1"}, "CANN 8.2.RC1 is older than torch-npu 2.13.0 needs"),
    "environment_not_set": ({"sourced": False}, "ascend-toolkit/set_env.sh"),
    "torch_and_cann": ({"torch": "2.12.0", "cann": ""}, "torch-npu 2.13.0 needs torch 2.13"),
    "driver_and_cann": ({"node": "absent", "cann": ""}, f"{MANAGER} is absent"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_first_mismatch_is_named_with_its_remedy(machine: str) -> None:
    what, told = MACHINES[machine]
    assert told in why_not(replace(WORKING, **what))


def test_nothing_is_missing_where_all_fit() -> None:
    assert why_not(WORKING) == ""
    assert why_not(replace(WORKING, num_devices=1, cann="9.1.0.alpha001")) == ""
    unknown = replace(WORKING, cann="?", driver="?")
    assert why_not(unknown) == "", "what tells no version is tried"


def test_versions_of_files_are_read(tmp_path: Path) -> None:
    assert cann_version(tmp_path / "absent") == ""
    assert cann_version(tmp_path) == "?"
    (tmp_path / "version.cfg").write_text("# version: 1.0\nruntime_version=[8.3.0:8.3.RC1]\n")
    assert cann_version(tmp_path) == "8.3.0"
    folder = tmp_path / "x86_64-linux"
    folder.mkdir()
    info = folder / "ascend_toolkit_install.info"
    info.write_text("package_name=Ascend-cann-toolkit\nversion=8.5.0.alpha002\narch=x86_64\n")
    assert cann_version(tmp_path) == "8.5.0.alpha002"
    driver = tmp_path / "version.info"
    driver.write_text("Version=25.2.0\nascendhal_version=7.35.23\n")
    assert vendor._read_version(driver) == "25.2.0"
    assert numbers("8.5.0.alpha002") == (8, 5)
    assert numbers("?") == ()


def _torch_npu(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A torch-npu that is made up, with so many NPUs."""
    card = SimpleNamespace(name="Ascend910B3", total_memory=64 << 30)
    npu = SimpleNamespace(device_count=lambda: count, get_device_properties=lambda device: card)
    module = ModuleType("torch_npu")
    vars(module)["npu"] = npu
    monkeypatch.setitem(sys.modules, "torch_npu", module)
    monkeypatch.setattr(torch, "get_device_module", lambda device: npu)
    monkeypatch.setattr(tupelo_npu, "look", lambda: WORKING)
    monkeypatch.setattr(tupelo_npu, "DEVICE", "cpu")  # torch knows no npu without torch-npu


def test_the_record_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    _torch_npu(monkeypatch, 2)
    answer = tupelo_npu.backend()
    assert isinstance(answer, Backend)
    has = answer.check().capabilities
    assert has.collective_library == "hccl"
    assert has.page_sizes[0] == 128
    assert has.max_running == 256
    assert answer.hardware == "Ascend910B3"
    assert {k.op for k in answer.kernels} >= {"rms_norm", "gated_mlp", "moe_route", "moe_experts"}
    assert "Ascend910B3, 64 GiB, the first of 2" in answer.notes


def test_a_driver_that_finds_no_npu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _torch_npu(monkeypatch, 0)
    answer = tupelo_npu.backend()
    assert isinstance(answer, Unavailable)
    assert "finds no NPU, though there are device nodes" in answer.reason


def test_what_torch_npu_raises_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "torch_npu"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libhccl.so: cannot open\\nmore')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    with pytest.raises(BackendUnavailable, match=r"libhccl\.so: cannot open; check.*set_env\.sh"):
        vendor.open_device()


def test_importing_and_asking_touch_nothing_of_core() -> None:
    """No vendor library is loaded, and core's files and modules are the same before and after."""
    code = (
        "import sys, tupelo.backend as core\n"
        "before = {n: id(m) for n, m in sys.modules.items() if n.startswith('tupelo.')}\n"
        "parts = {n: id(v) for n, v in vars(core).items()}\n"
        "import tupelo_npu\n"
        "tupelo_npu.backend()\n"
        "same = all(id(sys.modules[n]) == i for n, i in before.items())\n"
        "same = same and parts == {n: id(v) for n, v in vars(core).items() if n in parts}\n"
        "print(same, [m for m in ('torch_npu', 'triton') if m in sys.modules])\n"
    )
    files = _hashes()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"
    assert _hashes() == files


def _hashes() -> dict[str, str]:
    root = Path(tupelo.__file__).parent
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*.py")}


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ATTENTION", "GRAPHS", "VENDOR", "TRITON")
    for name in names:
        monkeypatch.delenv(f"TUPELO_NPU_{name}", raising=False)
    assert read_options() == Options()
    for name, value in zip(names, ("rows", "0", "0", "0"), strict=True):
        monkeypatch.setenv(f"TUPELO_NPU_{name}", value)
    assert read_options() == Options(attention="rows", graphs=False, vendor=False, triton=False)
    monkeypatch.setenv("TUPELO_NPU_ATTENTION", "magic")
    with pytest.raises(ConfigError, match=r"TUPELO_NPU_ATTENTION.*magic.*fused"):
        read_options()


def test_variables_of_the_vendors_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    assert hidden_by() == ""
    assert cann_home() == ""
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "")
    assert hidden_by() == "ASCEND_RT_VISIBLE_DEVICES"
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/cann")
    assert cann_home() == "/opt/cann"
