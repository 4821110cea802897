"""ROCm backend: torch, driver, rights, GPU, in this order."""

import os
from types import SimpleNamespace

from tests.unit.doctor.cuda import answers, fails
from tests.unit.doctor.faked import Environment

GPU = SimpleNamespace(
    name="AMD Pretended",
    gcnArchName="gfx942:sramecc+:xnack-",
    total_memory=192 << 30,
    warp_size=64,
    shared_memory_per_block=64 << 10,
    multi_processor_count=304,
)
BUILD = {"torch.version.hip": "7.1.25424"}
WITHOUT_GPU = {**BUILD, "torch.cuda.is_available": answers(False)}
WITH_GPU = {
    **BUILD,
    "torch.cuda.is_available": answers(True),
    "torch.cuda.device_count": answers(1),
    "torch.cuda.get_device_properties": answers(GPU),
}
NODE, NO_NODE = "/dev/null", "/dev/null/kfd"
SEEN = {"HIP_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "0"}

_access = os.access


def refused(path: str, mode: int, **more: bool) -> bool:
    """``os.access`` of a user who may not open the device node."""
    return path != NODE and _access(path, mode, **more)


ENVIRONMENTS = (
    Environment(
        id="torch_without_rocm",
        backend="rocm",
        says="is built without ROCm; install a ROCm build",
        patches={"torch.version.hip": None},
    ),
    Environment(
        id="torch_for_another_vendor",
        backend="rocm",
        says="is built without ROCm; install a ROCm build",
        patches={
            "torch.version.hip": None,
            "torch.version.cuda": "13.0",
            "torch.cuda.is_available": answers(False),
            "torch.cuda.current_device": fails("No CUDA GPUs are available"),
        },
    ),
    Environment(
        id="no_driver",
        backend="rocm",
        says=f"{NO_NODE} is absent: load the amdgpu driver (modprobe amdgpu), or give",
        patches={**WITHOUT_GPU, "tupelo_rocm.vendor.KFD": NO_NODE},
        variables=SEEN,
    ),
    Environment(
        id="no_rights",
        backend="rocm",
        says=f"this user may not open {NODE}; add them to the groups render and video",
        patches={**WITHOUT_GPU, "tupelo_rocm.vendor.KFD": NODE, "os.access": refused},
        variables=SEEN,
    ),
    Environment(
        id="hidden_gpus",
        backend="rocm",
        says="ROCR_VISIBLE_DEVICES hides every GPU; unset it, or name the GPUs to use",
        patches=WITHOUT_GPU,
        variables={**SEEN, "ROCR_VISIBLE_DEVICES": ""},
    ),
    Environment(
        id="rocm_of_another_version",
        backend="rocm",
        says="(HIP 7.1.25424) finds no AMD GPU; check that rocminfo lists one, and that the",
        patches={**WITHOUT_GPU, "tupelo_rocm.vendor.KFD": NODE},
        variables=SEEN,
    ),
    Environment(
        id="broken_gpu",
        backend="rocm",
        says="cannot open it: HIP error: invalid device ordinal; check what rocm-smi",
        patches={
            **WITH_GPU,
            "torch.cuda.get_device_properties": fails("HIP error: invalid device ordinal\nHIP k"),
        },
    ),
    Environment(
        id="two_gpus",
        backend="rocm",
        says="the first of 2 GPUs; HIP_VISIBLE_DEVICES names another",
        chosen="rocm",
        absent=("triton",),
        patches={**WITH_GPU, "torch.cuda.device_count": answers(2)},
    ),
    Environment(
        id="unknown_gpu",
        backend="rocm",
        says="gfx1330: unknown to this backend; Triton's kernels in cautious sizes; waves of 32",
        chosen="rocm",
        absent=("triton",),
        patches={
            **WITH_GPU,
            "torch.cuda.get_device_properties": answers(
                SimpleNamespace(**{**vars(GPU), "gcnArchName": "gfx1330", "warp_size": 32})
            ),
        },
    ),
    Environment(
        id="no_triton",
        backend="rocm",
        says="triton is not installed: torch computes everything, slowly",
        chosen="rocm",
        absent=("triton",),
        patches=WITH_GPU,
    ),
    Environment(
        id="bad_option",
        backend="rocm",
        says="TUPELO_ROCM_ATTENTION: got 'magic'; allowed: auto, aiter",
        patches=WITH_GPU,
        variables={"TUPELO_ROCM_ATTENTION": "magic"},
    ),
)
