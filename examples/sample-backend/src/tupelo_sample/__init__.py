"""A backend for Tupelo, as a third party writes it. Importing it opens no device."""

import platform

import torch

from tupelo.backend import Backend, Capabilities, Unavailable
from tupelo_sample.attention import RowAttention
from tupelo_sample.kernels import KERNELS

__all__ = ["backend"]


def backend() -> Backend | Unavailable:
    """The record of parts; what it leaves out is core's default.

    Returns ``Unavailable`` with what is missing and its remedy where the device cannot be used.
    """
    if platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"):
        return Unavailable(f"no build for {platform.machine()}: use another backend")
    return Backend(
        name="sample",
        device="cpu",
        capabilities=Capabilities(
            priority=-1,  # chosen only by name: the machine's real backend comes first
            dtypes=("float32", "bfloat16"),
            soft_cap=False,
            same_step_sharing=True,
            plan_needs_host_lens=True,
        ),
        contract=1,  # the one that it was written for, which need not be core's newest
        kernels=KERNELS,
        attention=RowAttention,
        versions={"torch": str(torch.__version__)},
        notes=("a sample: correct, and no faster than torch",),
    )
