"""TPU backend: torch-xla, its torch, a chip, libtpu, in this order."""

from collections.abc import Callable
from fnmatch import fnmatch

from tests.unit.doctor import cuda
from tests.unit.doctor.faked import Environment

PACKAGES = {"torch": "2.9.0+cpu", "torch-xla": "2.9.0", "libtpu": "0.0.21"}
KIND = """
def _xla_device_kind(device):
    {answer}

def _xla_memory_info(device):
    return {{"bytes_used": 0, "bytes_limit": 16 << 30}}
"""
CACHE = "def initialize_cache(path):\n    pass\n"


def modules(answer: str) -> dict[str, str]:
    """torch-xla, as far as it is called before a model is loaded, and libtpu."""
    opens = {"torch_xla": "", "torch_xla._XLAC": KIND.format(answer=answer)}
    return {**opens, "torch_xla.runtime": CACHE, "libtpu": ""}


def chips(*nodes: str) -> dict[str, Callable[[str], list[str]]]:
    """A machine with these device nodes."""
    return {"tupelo_tpu.vendor.glob": lambda pattern: [n for n in nodes if fnmatch(n, pattern)]}


WORKS = modules("return 'TPU v5 lite'")
UNNAMED = {"PJRT_DEVICE": ""}

ENVIRONMENTS = (
    Environment(
        id="no_torch_xla",
        backend="tpu",
        says='torch-xla is not installed; pip install "tupelo-backend-tpu[vendor]"',
        absent=("torch_xla",),
        patches=chips("/dev/accel0"),
        variables=UNNAMED,
    ),
    Environment(
        id="route_without_its_library",
        backend="tpu",
        says='torch-tpu is not installed; pip install "tupelo-backend-tpu[torchtpu]"',
        packages=PACKAGES,
        modules=WORKS,
        patches=chips("/dev/accel0"),
        variables={**UNNAMED, "TUPELO_TPU_ROUTE": "torch-tpu"},
    ),
    Environment(
        id="torch_tpu_without_a_tpu",
        backend="tpu",
        says="(/dev/accel* and /dev/vfio/[0-9]* are absent), and torch-tpu has no other device",
        packages={"torch": "2.13.0", "torch-tpu": "0.2.0", "libtpu": "0.0.52"},
        modules={"torch_tpu": "", "libtpu": ""},
        patches=chips("/dev/vfio/vfio"),
        variables={**UNNAMED, "TUPELO_TPU_ROUTE": "torch-tpu"},
    ),
    Environment(
        id="torch_of_another_release",
        backend="tpu",
        says="torch-xla 2.9 needs torch 2.9, but torch 2.13 is installed; pip install",
        packages={**PACKAGES, "torch": "2.13.0"},
        modules=WORKS,
        patches=chips("/dev/accel0"),
        variables=UNNAMED,
    ),
    Environment(
        id="no_tpu",
        backend="tpu",
        says="there is no TPU (/dev/accel* and /dev/vfio/[0-9]* are absent); PJRT_DEVICE=CPU runs",
        packages=PACKAGES,
        modules=WORKS,
        patches=chips("/dev/vfio/vfio"),
        variables=UNNAMED,
    ),
    Environment(
        id="no_libtpu",
        backend="tpu",
        says="libtpu is not installed; pip install",
        packages=PACKAGES,
        modules={name: text for name, text in WORKS.items() if name != "libtpu"},
        absent=("libtpu",),
        patches=chips("/dev/vfio/0"),
        variables=UNNAMED,
    ),
    Environment(
        id="broken_library",
        backend="tpu",
        says="torch-xla 2.9.0 cannot be loaded: _XLAC.so: undefined symbol: _ZN3c10; pip install",
        packages=PACKAGES,
        modules={**WORKS, "torch_xla": "raise ImportError('_XLAC.so: undefined symbol: _ZN3c10')"},
        patches=chips("/dev/accel0"),
        variables=UNNAMED,
    ),
    Environment(
        id="chip_in_use",
        backend="tpu",
        says="cannot open its device: open(/dev/accel0): Device or resource busy; check that no",
        packages=PACKAGES,
        modules=modules("raise RuntimeError('open(/dev/accel0): Device or resource busy')"),
        patches=chips("/dev/accel0"),
        variables=UNNAMED,
    ),
    Environment(
        id="two_chips",
        backend="tpu",
        says="device TPU v5 lite, the first of 2 chips; TPU_VISIBLE_CHIPS names another",
        chosen="tpu",
        packages=PACKAGES,
        modules=WORKS,
        patches=chips("/dev/accel0", "/dev/accel1"),
        variables=UNNAMED,
    ),
    Environment(
        id="xlas_own_cpu_device",
        backend="tpu",
        says="route torch-xla 2.9.0 over PJRT, device cpu",
        packages=PACKAGES,
        modules=modules("return 'cpu'"),
        patches=chips(),
        variables={"PJRT_DEVICE": "CPU"},
    ),
    Environment(
        id="bad_device",
        backend="tpu",
        says="PJRT_DEVICE: got 'GPU'; allowed: TPU, CPU",
        variables={"PJRT_DEVICE": "GPU"},
    ),
    Environment(
        id="two_vendors",
        backend="",
        says="No backend can be chosen: backends cuda and tpu share priority 100; name one with",
        chosen="",
        packages=PACKAGES,
        modules=WORKS,
        absent=("triton",),
        patches={**cuda.WITH_GPU, **chips("/dev/accel0")},
        variables=UNNAMED,
    ),
)
