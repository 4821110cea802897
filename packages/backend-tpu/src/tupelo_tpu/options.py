"""Environment variables of this backend; read here and nowhere else in it."""

import os
from dataclasses import dataclass

from tupelo.config import choice

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
    route = choice("TUPELO_TPU_ROUTE", "torch-xla", ROUTES)
    has_all = route == "torch-xla"  # the other has no CPU device, and no place for our kernel
    return Options(
        device=choice("PJRT_DEVICE", "", DEVICES if has_all else ("TPU",)),
        route=route,
        attention=choice("TUPELO_TPU_ATTENTION", "auto", ATTENTION if has_all else ("xla",)),
    )


def name_device(device: str) -> None:
    """Tell XLA which of its devices to open, where the environment has not."""
    os.environ.setdefault("PJRT_DEVICE", device)
