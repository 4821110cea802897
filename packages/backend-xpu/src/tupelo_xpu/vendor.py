"""Whether an Intel GPU can be used here: what is missing, and its remedy."""

import os
from ctypes.util import find_library
from dataclasses import dataclass
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from tupelo_xpu.options import hidden_by

NODES = "/dev/dri/renderD*"
"""Device nodes through which programs reach GPUs on Linux."""

WSL = "/dev/dxg"
"""The same of Windows' subsystem for Linux."""

LOADER = "ze_loader"
"""Level Zero's library, which finds the driver's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What there is on a machine.

    Attributes:
        torch: its version. sycl: the version of SYCL that it was built with; "" without.
        num_devices: GPUs that torch finds.
        node: ``"open"``, ``"closed"`` to this user, or ``"absent"``: any of ``NODES``.
        loader: whether Level Zero's library is found.
        hidden: the variable that may hide all GPUs; "" if none is set.
    """

    torch: str
    sycl: str
    num_devices: int
    node: str
    loader: bool
    hidden: str = ""


def look() -> Seen:
    """What there is here."""
    sycl = str(getattr(torch.version, "xpu", None) or "")
    return Seen(
        torch=torch.__version__,
        sycl=sycl,
        num_devices=torch.xpu.device_count() if sycl else 0,
        node=_node([*sorted(glob(NODES)), *glob(WSL)]),
        loader=find_library(LOADER) is not None,
        hidden=hidden_by(),
    )


def why_not(seen: Seen) -> str:
    """The first thing that is missing, and its remedy; "" if nothing is."""
    if not seen.sycl:
        return (
            f"torch {seen.torch} is built without XPU; install an XPU build, see "
            "https://pytorch.org/get-started"
        )
    if seen.num_devices:
        return ""
    if seen.node == "absent":
        return (
            f"{NODES} is absent: load the driver (modprobe xe, or i915 for older GPUs), or give "
            "the container --device=/dev/dri"
        )
    if seen.node == "closed":
        return f"this user may not open {NODES}; add them to the group render"
    if not seen.loader:
        return (
            "Level Zero's library (libze_loader.so.1) is not found; install the packages libze1 "
            "and libze-intel-gpu1"
        )
    if seen.hidden:
        return f"{seen.hidden} hides every GPU; unset it, or name the GPUs to use"
    return (
        f"torch {seen.torch} (SYCL {seen.sycl}) finds no Intel GPU; check that sycl-ls lists a "
        "level_zero:gpu, and that libze-intel-gpu1 is recent enough for the GPU"
    )


def has_triton() -> bool:
    """Whether there is a Triton that compiles for Intel's GPUs."""
    return not why_no_triton()


def why_no_triton() -> str:
    """What keeps core's Triton kernels from being compiled here; "" if nothing does."""
    found = find_spec("triton")
    if found is None or not found.submodule_search_locations:
        return "Triton is not installed; reinstall torch's XPU build, which names its own"
    if any(Path(p, "backends", "intel").is_dir() for p in found.submodule_search_locations):
        return ""
    return (
        f"the installed Triton{_named(installed('triton'))} has no kernels for Intel's GPUs: "
        "uninstall it, and reinstall torch's XPU build, which names its own"
    )


def versions() -> dict[str, str]:
    """The libraries that matter."""
    found = {"torch": torch.__version__, "SYCL": str(getattr(torch.version, "xpu", None) or "none")}
    for name in ("tupelo-backend-xpu", KERNELS):
        found[name] = installed(name) or "not installed"
    triton = [f"{name} {installed(name)}" for name in TRITONS if installed(name)]
    return found | {"triton": ", ".join(triton) or "not installed"}


KERNELS, IPEX = "vllm-xpu-kernels", "intel-extension-for-pytorch"
"""Packages of fast kernels: the maintained one, and the archived one."""

TRITONS = ("triton-xpu", "pytorch-triton-xpu", "triton")
"""Packages that bring the module ``triton``: torch's XPU builds name one of the first two."""


def installed(package: str) -> str:
    """The version of a package; "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _named(release: str) -> str:
    return f" {release}" if release else ""


def _node(nodes: list[str]) -> str:
    if not nodes:
        return "absent"
    return "open" if any(os.access(n, os.R_OK | os.W_OK) for n in nodes) else "closed"
