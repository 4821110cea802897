"""Whether an Ascend NPU can be used here: which of torch, torch-npu, the driver and CANN is missing
or of another version, and its remedy. Told without loading torch-npu, which takes seconds."""

import os
import re
from dataclasses import dataclass
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tupelo.errors import BackendUnavailable
from tupelo_npu.options import cann_home, hidden_by

INSTALL = 'pip install "tupelo-backend-npu[vendor]"'
MANAGER = "/dev/davinci_manager"
"""The device node through which programs reach NPUs; each has a ``/dev/davinciN`` beside it."""

DRIVER = "/usr/local/Ascend/driver/version.info"
CANN_PLACES = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/cann")
LEAST_CANN, LEAST_DRIVER = (8, 5), (25, 0)
"""What torch-npu is released for from 2.9 on, and the oldest driver that this CANN works with.
Source: README of torch-npu, "Ascend Auxiliary Software"; release notes of CANN 8.5.0, "Mapping
Between CANN and Driver Versions"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What there is on a machine; "" is "not there", of a version ``"?"`` "cannot be told".

    Attributes:
        torch, torch_npu: versions. driver, cann: versions too.
        node: ``"open"``, ``"closed"`` to this user, or ``"absent"``: ``MANAGER``.
        num_devices: device nodes of NPUs.
        sourced: whether CANN's environment is set; else ``cann`` is what lies at its usual place.
        hidden: the variable that hides all NPUs; "" if none does.
    """

    torch: str
    torch_npu: str
    driver: str
    node: str
    num_devices: int
    cann: str
    sourced: bool
    hidden: str = ""


def look() -> Seen:
    """What there is here."""
    is_open = os.access(MANAGER, os.R_OK | os.W_OK)
    home = cann_home()
    places = [home] if home else [place for place in CANN_PLACES if os.path.isdir(place)]
    return Seen(
        torch=torch.__version__,
        torch_npu=installed("torch-npu"),
        driver=_read_version(Path(DRIVER)),
        node="open" if is_open else "closed" if os.path.exists(MANAGER) else "absent",
        num_devices=len(glob("/dev/davinci[0-9]*")),
        cann=cann_version(Path(places[0])) if places else "",
        sourced=bool(home),
        hidden=hidden_by(),
    )


def why_not(seen: Seen) -> str:
    """The first thing that is missing or does not fit, and its remedy; "" if nothing is."""
    if not seen.torch_npu:
        return f"torch-npu is not installed; {INSTALL}"
    ours, theirs = _release(seen.torch_npu), _release(seen.torch)
    if ours != theirs:
        return (
            f"torch-npu {seen.torch_npu} needs torch {ours}, but torch {seen.torch} is installed; "
            f'pip install "torch=={ours}.*" "torch-npu=={ours}.*" in an environment of its own'
        )
    return _driver_problem(seen) or _cann_problem(seen)


def _driver_problem(seen: Seen) -> str:
    if seen.node == "absent":
        return (
            f"{MANAGER} is absent: install the Ascend driver and firmware (npu-smi info then lists "
            f"NPUs), or give the container --device={MANAGER} --device=/dev/devmm_svm "
            "--device=/dev/hisi_hdc --device=/dev/davinci0"
        )
    if seen.node == "closed":
        return f"this user may not open {MANAGER}; add them to the group HwHiAiUser"
    if not seen.num_devices:
        return "there is no /dev/davinciN: give the container --device=/dev/davinci0, or more"
    if seen.hidden:
        return f"{seen.hidden} hides every NPU; unset it, or name the NPUs to use"
    if not seen.driver:
        return (
            f"{DRIVER} is absent: mount the driver into the container, "
            "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver"
        )
    found = numbers(seen.driver)
    if found and found < LEAST_DRIVER:
        return (
            f"the Ascend driver {seen.driver} is older than CANN {_dotted(LEAST_CANN)} works with; "
            f"install driver and firmware {_dotted(LEAST_DRIVER)} or later"
        )
    return ""


def _cann_problem(seen: Seen) -> str:
    wanted = _dotted(LEAST_CANN)
    if not seen.cann:
        return (
            f"CANN is not installed: torch-npu {seen.torch_npu} needs its toolkit and kernels, "
            f"{wanted} or later; see https://www.hiascend.com/cann"
        )
    found = numbers(seen.cann)
    if found and found < LEAST_CANN:
        return (
            f"CANN {seen.cann} is older than torch-npu {seen.torch_npu} needs; install CANN "
            f"{wanted} or later, and a driver that it names"
        )
    if not seen.sourced:
        return (
            f"CANN {seen.cann} is installed, but its environment is not set; "
            "source /usr/local/Ascend/ascend-toolkit/set_env.sh"
        )
    return ""


def open_device() -> int:
    """Load torch-npu, and return how many NPUs it finds.

    Raises:
        BackendUnavailable: it does not load, or finds none; the remedy is in the message.
    """
    release = installed("torch-npu")
    try:
        import torch_npu
    except Exception as error:  # it raises what its own start raises, of many kinds
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        remedy = "check that CANN's set_env.sh is sourced, and that CANN is of torch-npu's release"
        raise BackendUnavailable(
            f"torch-npu {release} cannot be loaded: {first}; {remedy}"
        ) from error
    count: int = torch_npu.npu.device_count()
    if not count:
        raise BackendUnavailable(
            f"torch-npu {release} finds no NPU, though there are device nodes; check that npu-smi "
            "info lists one, and that the driver is as new as CANN needs"
        )
    return count


def cann_version(home: Path) -> str:
    """The version that a folder of CANN's tells of itself; ``"?"`` if it tells none, "" if there is
    no such folder."""
    if not home.is_dir():
        return ""
    names = ("ascend_*_install.info", "*/ascend_*_install.info", "version.cfg")
    files = [file for name in names for file in sorted(home.glob(name))]
    return next((told for told in map(_read_version, files) if told not in ("", "?")), "?")


def versions() -> dict[str, str]:
    """The libraries that matter."""
    found: dict[str, str] = {"torch": torch.__version__}
    for name in ("tupelo-backend-npu", "torch-npu", "triton-ascend"):
        found[name] = installed(name) or "not installed"
    seen = look()
    return found | {"CANN": seen.cann or "not installed", "driver": seen.driver or "not installed"}


def installed(package: str) -> str:
    """The version of a package; "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def numbers(release: str) -> tuple[int, ...]:
    """Major and minor version, ``(8, 5)`` of ``"8.5.0.alpha003"``; empty where it has none."""
    found = re.search(r"(\d+)\.(\d+)", release)
    return () if found is None else (int(found[1]), int(found[2]))


def _release(release: str) -> str:
    return _dotted(numbers(release))


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(str(n) for n in release)


def _read_version(file: Path) -> str:
    """What the first line ``version=…`` of a file says; "" without the file."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^[^\n=]*version[^\n=]*=\W*(\d[\w.]*)", text, re.IGNORECASE | re.MULTILINE)
    return "?" if found is None else found[1]
