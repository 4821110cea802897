"""Environment variables of this backend; read here and nowhere else in it."""

import os
from dataclasses import dataclass

from tupelo.config import choice

ATTENTION = ("auto", "fused", "rows", "triton", "reference")
HIDING = ("ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the environment asks of this backend.

    Attributes:
        attention: ``TUPELO_NPU_ATTENTION``: one of ``ATTENTION``.
        graphs: ``TUPELO_NPU_GRAPHS``: whether decode steps are captured as ACL graphs.
        vendor: ``TUPELO_NPU_VENDOR``: whether CANN's fused kernels serve ops.
        triton: ``TUPELO_NPU_TRITON``: whether core's Triton kernels serve what is left.
    """

    attention: str = "auto"
    graphs: bool = True
    vendor: bool = True
    triton: bool = True


def read_options() -> Options:
    """Read the environment now.

    Raises:
        ConfigError: a variable has a value that it cannot have.
    """
    return Options(
        attention=choice("TUPELO_NPU_ATTENTION", "auto", ATTENTION),
        graphs=choice("TUPELO_NPU_GRAPHS", "1", ("0", "1")) == "1",
        vendor=choice("TUPELO_NPU_VENDOR", "1", ("0", "1")) == "1",
        triton=choice("TUPELO_NPU_TRITON", "1", ("0", "1")) == "1",
    )


def hidden_by() -> str:
    """The variable that hides every NPU; "" if none does."""
    return next((name for name in HIDING if os.environ.get(name) in ("", "-1")), "")


def cann_home() -> str:
    """Where CANN's ``set_env.sh`` says that it is; "" where that was not sourced."""
    return os.environ.get("ASCEND_TOOLKIT_HOME") or os.environ.get("ASCEND_HOME_PATH") or ""
