"""CUDA backend: torch, driver, GPU, in this order."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import NoReturn

from tests.unit.doctor.faked import Environment

GPU = SimpleNamespace(name="NVIDIA Pretended", total_memory=80 << 30, major=9, minor=0)
BUILD = {"torch.version.cuda": "13.0"}


def answers(value: object) -> Callable[..., object]:
    """A function that always returns ``value``."""
    return lambda *args: value


def fails(message: str) -> Callable[..., NoReturn]:
    """A function that always raises what torch raises."""

    def fail(*args: object) -> NoReturn:
        raise RuntimeError(message)

    return fail


def without_gpu(message: str) -> dict[str, object]:
    """A CUDA build of torch that is told ``message`` when it begins."""
    return {
        **BUILD,
        "torch.cuda.is_available": answers(False),
        "torch.cuda.current_device": fails(message),
    }


WITH_GPU = {
    **BUILD,
    "torch.cuda.is_available": answers(True),
    "torch.cuda.device_count": answers(1),
    "torch.cuda.get_device_properties": answers(GPU),
    "torch.cuda.get_device_name": answers(GPU.name),
    "torch.cuda.get_arch_list": answers(["sm_80", "sm_90", "compute_90"]),
}

ENVIRONMENTS = (
    Environment(
        id="torch_without_cuda",
        backend="cuda",
        says="is built without CUDA; install a CUDA build",
        patches={"torch.version.cuda": None},
    ),
    Environment(
        id="torch_for_another_vendor",
        backend="cuda",
        says="is built without CUDA; install a CUDA build",
        patches={"torch.version.cuda": None, "torch.version.hip": "6.4"},
    ),
    Environment(
        id="no_driver",
        backend="cuda",
        says="finds no NVIDIA GPU (Found no NVIDIA driver on your system); check that nvidia-smi",
        patches=without_gpu("Found no NVIDIA driver on your system. Please check that you have"),
    ),
    Environment(
        id="old_driver",
        backend="cuda",
        says="(The NVIDIA driver on your system is too old (found version 11040)); check",
        patches=without_gpu(
            "The NVIDIA driver on your system is too old (found version 11040). Please update"
        ),
    ),
    Environment(
        id="no_gpu",
        backend="cuda",
        says="(No CUDA GPUs are available); check that nvidia-smi lists one and that CUDA_VISIBLE",
        patches=without_gpu("No CUDA GPUs are available"),
    ),
    Environment(
        id="broken_gpu",
        backend="cuda",
        says="cannot open it: CUDA error: unknown error; check what nvidia-smi says of it",
        patches={
            **WITH_GPU,
            "torch.cuda.get_device_properties": fails("CUDA error: unknown error\nCUDA kernel"),
        },
    ),
    Environment(
        id="gpu_too_old_for_torch",
        backend="cuda",
        says="no kernels for NVIDIA Pretended, whose compute capability is 9.0, but for sm_100",
        patches={**WITH_GPU, "torch.cuda.get_arch_list": answers(["sm_100", "compute_100"])},
    ),
    Environment(
        id="gpu_of_a_later_minor_version",
        backend="cuda",
        says="usable, chosen",
        chosen="cuda",
        absent=("triton",),
        patches={
            **WITH_GPU,
            "torch.cuda.get_device_properties": answers(
                SimpleNamespace(**{**vars(GPU), "minor": 3})
            ),
            "torch.cuda.get_arch_list": answers(["sm_80", "sm_90"]),
        },
    ),
    Environment(
        id="no_triton",
        backend="cuda",
        says="triton is not installed: torch's references serve every op, slowly",
        chosen="cuda",
        absent=("triton",),
        patches=WITH_GPU,
    ),
    Environment(
        id="two_gpus",
        backend="cuda",
        says="the first of 2 GPUs; CUDA_VISIBLE_DEVICES names another",
        chosen="cuda",
        absent=("triton",),
        patches={**WITH_GPU, "torch.cuda.device_count": answers(2)},
    ),
    Environment(
        id="bad_option",
        backend="cuda",
        says="TUPELO_CUDA_ATTENTION: got 'magic'; allowed: auto, flashinfer",
        patches=WITH_GPU,
        variables={"TUPELO_CUDA_ATTENTION": "magic"},
    ),
    Environment(
        id="named_and_unusable",
        backend="",
        says="No backend can be chosen: backend 'cuda' is unavailable: torch",
        chosen="",
        patches=without_gpu("No CUDA GPUs are available"),
        variables={"TUPELO_BACKEND": "cuda"},
    ),
)
