"""Whether an AMD GPU can be used here: what is missing, and its remedy."""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from tupelo_rocm.options import hidden_by

DEVICE = "cuda:0"
"""Torch's ROCm builds call AMD GPUs by CUDA's name."""

KFD = "/dev/kfd"
"""The device node through which programs reach AMD GPUs on Linux."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What there is on a machine.

    Attributes:
        torch: its version. hip: the version of HIP that it was built with; "" without.
        num_devices: GPUs that torch finds. broken: what torch says where it can't open the first.
        node: ``"open"``, ``"closed"`` to this user, or ``"absent"``: ``KFD``.
        hidden: the variable that hides all GPUs; "" if none does.
    """

    torch: str
    hip: str
    num_devices: int
    node: str
    hidden: str = ""
    broken: str = ""


def look() -> Seen:
    """What there is here. Opens the GPU, where there is one."""
    hip = torch.version.hip or ""
    num_devices = torch.cuda.device_count() if hip and torch.cuda.is_available() else 0
    is_open = os.access(KFD, os.R_OK | os.W_OK)
    node = "open" if is_open else "closed" if os.path.exists(KFD) else "absent"
    return Seen(
        torch=torch.__version__,
        hip=hip,
        num_devices=num_devices,
        node=node,
        hidden=hidden_by(),
        broken=_broken() if num_devices else "",
    )


def why_not(seen: Seen) -> str:
    """The first thing that is missing, and its remedy; "" if nothing is."""
    if not seen.hip:
        return (
            f"torch {seen.torch} is built without ROCm; install a ROCm build, see "
            "https://pytorch.org/get-started"
        )
    if seen.broken:
        return (
            f"torch {seen.torch} (HIP {seen.hip}) finds an AMD GPU and cannot open it: "
            f"{seen.broken}; check what rocm-smi and the kernel's log say of it"
        )
    if seen.num_devices:
        return ""
    if seen.hidden:
        return f"{seen.hidden} hides every GPU; unset it, or name the GPUs to use"
    if seen.node == "absent":
        return (
            f"{KFD} is absent: load the amdgpu driver (modprobe amdgpu), or give the container "
            f"--device={KFD} --device=/dev/dri"
        )
    if seen.node == "closed":
        return f"this user may not open {KFD}; add them to the groups render and video"
    return (
        f"torch {seen.torch} (HIP {seen.hip}) finds no AMD GPU; check that rocminfo lists one, and "
        "that the installed ROCm is of the version that torch was built with"
    )


def _broken() -> str:
    """What torch says where the first GPU can't be opened; "" where it can."""
    try:
        torch.cuda.get_device_properties(DEVICE)
    except (RuntimeError, AssertionError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ""


def versions() -> dict[str, str]:
    """The libraries that matter."""
    found = {"torch": torch.__version__, "HIP": torch.version.hip or "none"}
    for name in ("tupelo-backend-rocm", "amd-aiter"):
        found[name] = installed(name) or "not installed"
    triton = [f"{name} {installed(name)}" for name in TRITONS if installed(name)]
    return found | {"triton": ", ".join(triton) or "not installed"}


TRITONS = ("triton", "pytorch-triton-rocm", "triton-rocm")
"""Packages that bring the module ``triton``: torch's ROCm builds name one of the latter."""


def installed(package: str) -> str:
    """The version of a package; "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
