"""Whether XLA can be used here, told without importing it: it takes seconds to load."""

from collections.abc import Iterable
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from tupelo.config import environment
from tupelo.errors import BackendUnavailable
from tupelo_tpu.options import Options, name_device

INSTALL = 'pip install "tupelo-backend-tpu[vendor]"'
CHIPS = ("/dev/accel*", "/dev/vfio/[0-9]*")
"""Device nodes of TPUs: of v4 and before, and since v5e."""


def why_not(options: Options, chips: Iterable[str] | None = None) -> str:
    """The first thing that is missing, and its remedy; "" if nothing is.

    Args:
        chips: device nodes of TPUs instead of this machine's.
    """
    if options.route == "torch-tpu":
        return (
            "TUPELO_TPU_ROUTE=torch-tpu: this backend has no route over TorchTPU; leave the "
            "variable out for torch-xla"
        )
    if find_spec("torch_xla") is None:
        return f"torch-xla is not installed; {INSTALL}"
    ours, theirs = _release("torch-xla"), _release("torch")
    if ours != theirs:
        return (
            f"torch-xla {ours} needs torch {ours}, but torch {theirs} is installed; {INSTALL} in "
            "an environment of its own"
        )
    if options.device == "CPU":
        return ""
    if not (list_chips() if chips is None else [*chips]):
        return (
            f"there is no TPU ({' and '.join(CHIPS)} are absent); PJRT_DEVICE=CPU runs the same "
            "programs on XLA's own CPU device, to try them"
        )
    if find_spec("libtpu") is None:
        return f"libtpu is not installed; {INSTALL}"
    return ""


def list_chips() -> list[str]:
    """Device nodes of this machine's TPUs."""
    return [node for pattern in CHIPS for node in sorted(glob(pattern))]


def device_note(kind: str) -> str:
    """For ``tupelo doctor``: the device in use, and how many there are."""
    count = 1 if kind == "cpu" else len(list_chips())
    more = f", the first of {count} chips; TPU_VISIBLE_CHIPS names another" if count > 1 else ""
    return f"route torch-xla {_version('torch-xla')} over PJRT, device {kind}{more}"


def versions() -> dict[str, str]:
    """The libraries that matter."""
    return {
        name: _version(name)
        for name in ("tupelo-backend-tpu", "torch", "torch-xla", "libtpu", "jax")
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
    """Load torch-xla, open its device, and return the device's kind, such as ``"TPU v5 lite"`` or
    ``"cpu"``. Compiled programs of a TPU are kept in Tupelo's cache folder.

    Raises:
        BackendUnavailable: it does not load or open; the remedy is in the message.
    """
    try:
        return _open(options, device)
    except ImportError as error:
        message = f"torch-xla {_version('torch-xla')} cannot be loaded: {error}; {INSTALL} anew"
        raise BackendUnavailable(message) from error
    except RuntimeError as error:
        first = next(iter(str(error).strip().splitlines()), "it says nothing")
        raise BackendUnavailable(
            f"torch-xla cannot open its device: {first}; check that no other process has it open, "
            "and that this user may use it"
        ) from error


def _open(options: Options, device: str) -> str:
    if not options.device:
        name_device("TPU")
    import torch_xla.runtime
    from torch_xla import _XLAC as xla

    if options.device != "CPU":  # XLA cannot read programs for the CPU back
        torch_xla.runtime.initialize_cache(str(environment().cache_dir / "xla"))
    return str(xla._xla_device_kind(device))
