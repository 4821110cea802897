"""Environment variables of this backend; read here and nowhere else in it."""

import os
from dataclasses import dataclass

from tupelo.config import choice

ATTENTION = ("auto", "aiter", "ck", "triton", "reference")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the environment asks of this backend.

    Attributes:
        attention: ``TUPELO_ROCM_ATTENTION``: one of ``ATTENTION``. ``auto`` never is ``ck``.
        graphs: ``TUPELO_ROCM_GRAPHS``: whether decode steps are captured.
        prompt_graphs: the same variable: whether prompt steps are too.
        prefix_groups: ``TUPELO_ROCM_PREFIX_GROUPS``: whether a prefix that decode rows share is
            read once.
        measured_linear: ``TUPELO_ROCM_LINEAR``: whether small products are chosen by measurement.
        aiter: ``TUPELO_ROCM_AITER``: whether AITER is used where it is installed.
    """

    attention: str = "auto"
    graphs: bool = True
    prompt_graphs: bool = False
    prefix_groups: bool = True
    measured_linear: bool = True
    aiter: bool = True


def read_options() -> Options:
    """Read the environment now.

    Raises:
        ConfigError: a variable has a value that it cannot have.
    """
    graphs = choice("TUPELO_ROCM_GRAPHS", "1", ("0", "1", "prompts"))
    return Options(
        attention=choice("TUPELO_ROCM_ATTENTION", "auto", ATTENTION),
        graphs=graphs != "0",
        prompt_graphs=graphs == "prompts",
        prefix_groups=choice("TUPELO_ROCM_PREFIX_GROUPS", "1", ("0", "1")) == "1",
        measured_linear=choice("TUPELO_ROCM_LINEAR", "auto", ("auto", "hipblas")) == "auto",
        aiter=choice("TUPELO_ROCM_AITER", "1", ("0", "1")) == "1",
    )


def hidden_by() -> str:
    """The variable of ROCm's that hides every GPU; "" if none does."""
    names = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    return next((name for name in names if os.environ.get(name) in ("", "-1")), "")
