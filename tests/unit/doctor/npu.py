"""NPU backend: torch-npu, its torch, the driver, rights, devices, CANN, in this order."""

from dataclasses import replace

from tests.unit.doctor.cuda import answers
from tests.unit.doctor.faked import Environment
from tupelo_npu.vendor import Seen

WORKING = Seen(
    torch="2.13.0",
    torch_npu="2.13.0",
    driver="25.5.0",
    node="open",
    num_devices=1,
    cann="8.5.0",
    sourced=True,
)


def seen(**what: object) -> dict[str, object]:
    """A machine where all fits but this."""
    return {"tupelo_npu.look": answers(replace(WORKING, **what))}


ENVIRONMENTS = (
    Environment(
        id="no_torch_npu",
        backend="npu",
        says='torch-npu is not installed; pip install "tupelo-backend-npu[vendor]"',
        patches=seen(torch_npu=""),
    ),
    Environment(
        id="another_torch",
        backend="npu",
        says="torch-npu 2.12.0 needs torch 2.12, but torch 2.13.0 is installed; pip install",
        patches=seen(torch_npu="2.12.0"),
    ),
    Environment(
        id="no_driver",
        backend="npu",
        says="/dev/davinci_manager is absent: install the Ascend driver and firmware",
        patches=seen(node="absent", num_devices=0),
    ),
    Environment(
        id="no_rights",
        backend="npu",
        says="this user may not open /dev/davinci_manager; add them to the group HwHiAiUser",
        patches=seen(node="closed"),
    ),
    Environment(
        id="old_driver",
        backend="npu",
        says="the Ascend driver 24.1.rc3 is older than CANN 8.5 works with; install driver",
        patches=seen(driver="24.1.rc3"),
    ),
    Environment(
        id="no_cann",
        backend="npu",
        says="CANN is not installed: torch-npu 2.13.0 needs its toolkit and kernels, 8.5 or later",
        patches=seen(cann="", sourced=False),
    ),
    Environment(
        id="environment_not_set",
        backend="npu",
        says="CANN 8.5.0 is installed, but its environment is not set; source",
        patches=seen(sourced=False),
    ),
)
