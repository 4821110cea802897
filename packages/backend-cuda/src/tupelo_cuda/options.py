"""Environment variables of this backend; read here and nowhere else in it."""

import os
from dataclasses import dataclass

from tupelo.errors import ConfigError

ATTENTION = ("auto", "flashinfer", "triton", "reference")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the environment asks of this backend.

    Attributes:
        attention: ``TUPELO_CUDA_ATTENTION``: one of ``ATTENTION``.
        graphs: ``TUPELO_CUDA_GRAPHS``: whether decode steps are captured.
        prompt_graphs: the same variable: whether prompt steps are too.
        prefix_groups: ``TUPELO_CUDA_PREFIX_GROUPS``: whether a prefix that decode rows share is
            read once.
        measured_linear: ``TUPELO_CUDA_LINEAR``: whether small products are chosen by measurement.
    """

    attention: str = "auto"
    graphs: bool = True
    prompt_graphs: bool = True
    prefix_groups: bool = True
    measured_linear: bool = True


def read_options() -> Options:
    """Read the environment now.

    Raises:
        ConfigError: a variable has a value that it cannot have.
    """
    graphs = _choice("TUPELO_CUDA_GRAPHS", "1", ("0", "decode", "1"))
    return Options(
        attention=_choice("TUPELO_CUDA_ATTENTION", "auto", ATTENTION),
        graphs=graphs != "0",
        prompt_graphs=graphs == "1",
        prefix_groups=_choice("TUPELO_CUDA_PREFIX_GROUPS", "1", ("0", "1")) == "1",
        measured_linear=_choice("TUPELO_CUDA_LINEAR", "auto", ("auto", "cublas")) == "auto",
    )


def _choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(name) or default
    if value not in allowed:
        raise ConfigError(f"{name}: got {value!r}; allowed: {', '.join(allowed)}")
    return value
