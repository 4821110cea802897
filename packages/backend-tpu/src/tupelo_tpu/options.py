"""Environment variables of this backend; read here and nowhere else in it."""

import os
from dataclasses import dataclass

from tupelo.errors import ConfigError

ATTENTION = ("auto", "pallas", "xla")
DEVICES = ("TPU", "CPU")
ROUTES = ("torch-xla", "torch-tpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the environment asks of this backend.

    Attributes:
        device: ``PJRT_DEVICE``, XLA's own variable: ``"TPU"``, ``"CPU"``, or "" for a TPU where
            there is one.
        route: ``TUPELO_TPU_ROUTE``: one of ``ROUTES``, the library that programs go through.
        attention: ``TUPELO_TPU_ATTENTION``: one of ``ATTENTION``; ``auto`` is Pallas on a TPU.
    """

    device: str = ""
    route: str = "torch-xla"
    attention: str = "auto"


def read_options() -> Options:
    """Read the environment now.

    Raises:
        ConfigError: a variable has a value that it cannot have.
    """
    return Options(
        device=_choice("PJRT_DEVICE", "", DEVICES),
        route=_choice("TUPELO_TPU_ROUTE", "torch-xla", ROUTES),
        attention=_choice("TUPELO_TPU_ATTENTION", "auto", ATTENTION),
    )


def name_device(device: str) -> None:
    """Tell XLA which of its devices to open, where the environment has not."""
    os.environ.setdefault("PJRT_DEVICE", device)


def _choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(name) or default
    if value != default and value not in allowed:
        raise ConfigError(f"{name}: got {value!r}; allowed: {', '.join(allowed)}")
    return value
