"""Whether XLA can be used here, told without importing it: it takes seconds to load."""

from collections.abc import Iterable
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from tupelo.config import environment
from tupelo.errors import BackendUnavailable
from tupelo_tpu.options import Options, name_device

MODULES = {"torch-xla": "torch_xla", "torch-tpu": "torch_tpu"}
INSTALL = {
    "torch-xla": 'pip install "tupelo-backend-tpu[vendor]"',
    "torch-tpu": 'pip install "tupelo-backend-tpu[torchtpu]"',
}
"""By route."""

CHIPS = ("/dev/accel*", "/dev/vfio/[0-9]*")
"""Device nodes of TPUs: of v4 and before, and since v5e."""


def why_not(options: Options, chips: Iterable[str] | None = None) -> str:
    """The first thing that is missing, and its remedy; "" if nothing is.

    Args:
        chips: device nodes of TPUs instead of this machine's.
    """
    route, install = options.route, INSTALL[options.route]
    if find_spec(MODULES[route]) is None:
        return f"{route} is not installed; {install}"
    ours, theirs = _release("torch-xla"), _release("torch")
    if route == "torch-xla" and ours != theirs:
        return (
            f"torch-xla {ours} needs torch {ours}, but torch {theirs} is installed; {install} in "
            "an environment of its own"
        )
    if options.device == "CPU":
        return ""
    if not (list_chips() if chips is None else [*chips]):
        absent = f"there is no TPU ({' and '.join(CHIPS)} are absent)"
        if route == "torch-tpu":
            return f"{absent}, and torch-tpu has no other device"
        return (
            f"{absent}; PJRT_DEVICE=CPU runs the same programs on XLA's own CPU device, to try them"
        )
    if find_spec("libtpu") is None:
        return f"libtpu is not installed; {install}"
    return ""


def list_chips() -> list[str]:
    """Device nodes of this machine's TPUs."""
    return [node for pattern in CHIPS for node in sorted(glob(pattern))]


def device_note(options: Options, kind: str) -> str:
    """For ``tupelo doctor``: the device in use, and how many there are."""
    count = 1 if kind == "cpu" else len(list_chips())
    more = f", the first of {count} chips; TPU_VISIBLE_CHIPS names another" if count > 1 else ""
    unseen = "" if options.route == "torch-xla" else ", which no TPU has run with it"
    return f"route {options.route} {_version(options.route)} over PJRT{unseen}, device {kind}{more}"


def versions() -> dict[str, str]:
    """The libraries that matter."""
    return {
        name: _version(name)
        for name in ("tupelo-backend-tpu", "torch", "torch-xla", "torch-tpu", "libtpu", "jax")
    }


def _release(package: str) -> str:
    """Major and minor version."""
    return ".".join(_version(package).split(".")[:2])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def open_device(options: Options, device: str) -> str:
    """Load the route's library, open its device, and return its kind, such as ``"TPU v5 lite"`` or
    ``"cpu"``. torch-xla keeps compiled programs of a TPU in Tupelo's cache folder.

    Raises:
        BackendUnavailable: it does not load or open; the remedy is in the message.
    """
    library = f"{options.route} {_version(options.route)}"
    try:
        return (_open if options.route == "torch-xla" else _open_torch_tpu)(options, device)
    except ImportError as error:
        message = f"{library} cannot be loaded: {error}; {INSTALL[options.route]} anew"
        raise BackendUnavailable(message) from error
    except RuntimeError as error:
        first = next(iter(str(error).strip().splitlines()), "it says nothing")
        raise BackendUnavailable(
            f"{library} cannot open its device: {first}; check that no other process has it open, "
            "and that this user may use it"
        ) from error


def _open_torch_tpu(options: Options, device: str) -> str:
    import torch_tpu  # noqa: F401  (its device is torch's once it is loaded)

    return str(torch.get_device_module(device).get_device_name())


def _open(options: Options, device: str) -> str:
    if not options.device:
        name_device("TPU")
    import torch_xla.runtime
    from torch_xla import _XLAC as xla

    if options.device != "CPU":  # XLA cannot read programs for the CPU back
        torch_xla.runtime.initialize_cache(str(environment().cache_dir / "xla"))
    return str(xla._xla_device_kind(device))
