"""Environment variables of this backend; read here and nowhere else in it."""

import os
from dataclasses import dataclass

from tupelo.config import choice

ATTENTION = ("auto", "vllm", "ipex", "triton", "reference")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the environment asks of this backend.

    Attributes:
        attention: ``TUPELO_XPU_ATTENTION``: one of ``ATTENTION``. ``auto`` never is ``ipex``.
        graphs: ``TUPELO_XPU_GRAPHS``: whether decode steps are captured, where torch can.
        measured_linear: ``TUPELO_XPU_LINEAR``: whether small products are chosen by measurement.
        vllm: ``TUPELO_XPU_KERNELS``: whether vllm-xpu-kernels is used where it is installed.
        ipex: the same variable is ``ipex``: intel-extension-for-pytorch is used instead.
    """

    attention: str = "auto"
    graphs: bool = True
    measured_linear: bool = True
    vllm: bool = True
    ipex: bool = False


def read_options() -> Options:
    """Read the environment now.

    Raises:
        ConfigError: a variable has a value that it cannot have.
    """
    kernels = choice("TUPELO_XPU_KERNELS", "vllm", ("vllm", "ipex", "none"))
    return Options(
        attention=choice("TUPELO_XPU_ATTENTION", "auto", ATTENTION),
        graphs=choice("TUPELO_XPU_GRAPHS", "1", ("0", "1")) == "1",
        measured_linear=choice("TUPELO_XPU_LINEAR", "auto", ("auto", "onednn")) == "auto",
        vllm=kernels == "vllm",
        ipex=kernels == "ipex",
    )


def hidden_by() -> str:
    """The variable of oneAPI's that may hide every GPU; "" if none is set."""
    if os.environ.get("ONEAPI_DEVICE_SELECTOR"):
        return "ONEAPI_DEVICE_SELECTOR"
    return "ZE_AFFINITY_MASK" if "ZE_AFFINITY_MASK" in os.environ else ""
