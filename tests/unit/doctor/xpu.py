"""XPU backend: torch's build, driver, rights, Level Zero, GPU, Triton, in this order."""

import os
from types import SimpleNamespace

from tests.unit.doctor.cuda import answers, fails
from tests.unit.doctor.faked import Environment

GPU = SimpleNamespace(
    name="Intel Arc Pretended",
    total_memory=24 << 30,
    gpu_subslice_count=20,
    local_mem_size=64 << 10,
    driver_version="1.6.33578",
)
BUILD = {"torch.version.xpu": "20260100"}
NODES = {"tupelo_xpu.vendor.glob": lambda pattern: [os.devnull] if "render" in pattern else []}
BROKEN = {**BUILD, **NODES, "torch.xpu.device_count": answers(0)}
LOADER = {"tupelo_xpu.vendor.find_library": answers("libze_loader.so.1")}
WITH_GPU = {
    **BUILD,
    "torch.xpu.device_count": answers(1),
    "torch.xpu.get_device_properties": answers(GPU),
}
UNSET = {"ONEAPI_DEVICE_SELECTOR": "", "TUPELO_XPU_KERNELS": ""}

ENVIRONMENTS = (
    Environment(
        id="torch_without_xpu",
        backend="xpu",
        says="is built without XPU; install an XPU build, see https://pytorch.org/get-started",
        patches={"torch.version.xpu": None},
    ),
    Environment(
        id="no_driver",
        backend="xpu",
        says="/dev/dri/renderD* is absent: load the driver (modprobe xe, or i915 for older GPUs)",
        patches={**BROKEN, "tupelo_xpu.vendor.glob": answers([])},
    ),
    Environment(
        id="no_rights",
        backend="xpu",
        says="this user may not open /dev/dri/renderD*; add them to the group render",
        patches={**BROKEN, "tupelo_xpu.vendor.glob": answers(["/dev/dri/renderD0-pretended"])},
    ),
    Environment(
        id="no_level_zero",
        backend="xpu",
        says="Level Zero's library (libze_loader.so.1) is not found; install the packages libze1",
        patches={**BROKEN, "tupelo_xpu.vendor.find_library": answers(None)},
    ),
    Environment(
        id="hidden",
        backend="xpu",
        says="ONEAPI_DEVICE_SELECTOR hides every GPU; unset it, or name the GPUs to use",
        patches={**BROKEN, **LOADER},
        variables={"ONEAPI_DEVICE_SELECTOR": "opencl:cpu"},
    ),
    Environment(
        id="old_driver",
        backend="xpu",
        says="finds no Intel GPU; check that sycl-ls lists a level_zero:gpu, and that libze-intel",
        patches={**BROKEN, **LOADER, "tupelo_xpu.vendor.hidden_by": answers("")},
        variables=UNSET,
    ),
    Environment(
        id="broken_gpu",
        backend="xpu",
        says="cannot open it: level_zero backend failed with error: 20; check what dmesg and sycl",
        patches={
            **WITH_GPU,
            "torch.xpu.get_device_properties": fails("level_zero backend failed with error: 20"),
        },
    ),
    Environment(
        id="no_triton",
        backend="xpu",
        says="Triton is not installed; reinstall torch's XPU build, which names its own; torch's",
        chosen="xpu",
        patches={**WITH_GPU, "tupelo_xpu.vendor.find_spec": answers(None)},
        variables=UNSET,
    ),
    Environment(
        id="another_vendors_triton",
        backend="xpu",
        says="the installed Triton 3.9.0 has no kernels for Intel's GPUs: uninstall it, and",
        chosen="xpu",
        packages={"triton": "3.9.0"},
        patches={
            **WITH_GPU,
            "tupelo_xpu.vendor.find_spec": answers(
                SimpleNamespace(submodule_search_locations=["/pretended/triton"])
            ),
        },
        variables=UNSET,
    ),
    Environment(
        id="no_library",
        backend="xpu",
        says='vllm-xpu-kernels is not installed; pip install "tupelo-backend-xpu[vendor]"',
        chosen="xpu",
        patches={**WITH_GPU, "tupelo_xpu.vendor.find_spec": answers(None)},
        variables=UNSET,
    ),
    Environment(
        id="library_that_does_not_load",
        backend="xpu",
        says="is not used for rms_norm (rms_norm of vllm-xpu-kernels 0.1.16 cannot be loaded: "
        "libsycl.so.9: not found) and 5 more ops",
        chosen="xpu",
        packages={"vllm-xpu-kernels": "0.1.16"},
        modules={
            "vllm_xpu_kernels": "",
            "vllm_xpu_kernels._C": "raise ImportError('libsycl.so.9: not found')",
        },
        patches={**WITH_GPU, "tupelo_xpu.vendor.find_spec": answers(None)},
        variables=UNSET,
    ),
    Environment(
        id="two_gpus",
        backend="xpu",
        says="24 GiB, 20 Xe cores, driver 1.6.33578, the first of 2 GPUs; ZE_AFFINITY_MASK names",
        chosen="xpu",
        patches={
            **WITH_GPU,
            "torch.xpu.device_count": answers(2),
            "tupelo_xpu.vendor.find_spec": answers(None),
        },
        variables=UNSET,
    ),
    Environment(
        id="bad_option",
        backend="xpu",
        says="TUPELO_XPU_KERNELS: got 'magic'; allowed: vllm, ipex, none",
        variables={"TUPELO_XPU_KERNELS": "magic"},
    ),
)
