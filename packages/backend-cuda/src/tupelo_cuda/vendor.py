"""Whether an NVIDIA GPU can be used here, and what ``tupelo doctor`` says of it."""

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

DEVICE = "cuda:0"


def why_not() -> str:
    """The first thing that is missing, and its remedy; "" if nothing is. Opens the GPU."""
    built = f"torch {torch.__version__}"
    if torch.version.cuda is None:
        return f"{built} is built without CUDA; install a CUDA build, see https://pytorch.org/get-started"
    if not torch.cuda.is_available():
        return (
            f"{built} finds no NVIDIA GPU{_said()}; check that nvidia-smi lists one and that "
            "CUDA_VISIBLE_DEVICES does not hide it"
        )
    try:
        properties = torch.cuda.get_device_properties(DEVICE)
    except (RuntimeError, AssertionError) as error:
        return (
            f"{built} finds an NVIDIA GPU and cannot open it: {_first_line(error)}; check what "
            "nvidia-smi says of it, and that no other process has it to itself"
        )
    capability, architectures = (properties.major, properties.minor), torch.cuda.get_arch_list()
    if not _runs(capability, architectures):
        return (
            f"{built} has no kernels for {properties.name}, whose compute capability is "
            f"{capability[0]}.{capability[1]}, but for {' '.join(architectures)}; install a build "
            "of torch that has"
        )
    return ""


def versions() -> dict[str, str]:
    """The libraries that matter."""
    found = {"torch": torch.__version__, "CUDA": str(torch.version.cuda)}
    for name in ("tupelo-backend-cuda", "flashinfer-python", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def notes() -> tuple[str, ...]:
    """The GPU in use, how many there are, and what is slow for want of a library."""
    gpu = torch.cuda.get_device_properties(DEVICE)
    lines = [
        f"{gpu.name}, {gpu.total_memory / (1 << 30):.0f} GiB, compute capability "
        f"{gpu.major}.{gpu.minor}, CUDA {torch.version.cuda}"
    ]
    count = torch.cuda.device_count()
    if count > 1:
        lines.append(f"the first of {count} GPUs; CUDA_VISIBLE_DEVICES names another")
    if find_spec("triton") is None:
        lines.append("triton is not installed: torch's references serve every op, slowly")
    return tuple(lines)


def _said() -> str:
    """What CUDA says when it is to begin: no driver, one that is too old, or no GPU."""
    try:
        torch.cuda.current_device()
    except (RuntimeError, AssertionError) as error:
        return f" ({_first_line(error)})"
    return ""


def _first_line(error: Exception) -> str:
    """Of a message, its first sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.split(r"\.\s", lines[0])[0].rstrip(".")


def _runs(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether a build with these kernels runs on a GPU: those of its major version up to its minor
    one do, and so does intermediate code of any earlier version."""
    parsed = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", text) for text in architectures]
    known = [(m[1], (int(m[2]), int(m[3]))) for m in parsed if m is not None]
    return not known or any(
        made <= capability and (kind == "compute" or made[0] == capability[0])
        for kind, made in known
    )
