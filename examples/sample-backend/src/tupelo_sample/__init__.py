"""A backend for Tupelo, as a third party writes it. Importing it opens no device."""

import torch

from tupelo.backend import Backend, Capabilities, Unavailable
from tupelo_sample.attention import RowAttention
from tupelo_sample.device import DEVICE, open_device, why_not
from tupelo_sample.kernels import KERNELS
from tupelo_sample.runtime import SampleRuntime

__all__ = ["backend"]


def backend() -> Backend | Unavailable:
    """The record of parts; what it leaves out is core's default.

    Returns ``Unavailable`` with what is missing and its remedy where the device cannot be used.
    """
    reason = why_not()
    if reason:
        return Unavailable(reason)
    open_device()
    return Backend(
        name="sample",
        device=DEVICE,
        capabilities=Capabilities(
            priority=-1,  # chosen only by name: the machine's real backend comes first
            dtypes=("float32", "bfloat16"),
            soft_cap=False,
            same_step_sharing=True,
            plan_needs_host_lens=True,
            memory_fraction=0.4,  # its memory is the host's
        ),
        contract=1,  # the one that it was written for, which need not be core's newest
        kernels=KERNELS,
        attention=RowAttention,
        runtime=SampleRuntime,
        versions={"torch": str(torch.__version__)},
        notes=("a sample: correct, and slower than torch on the host",),
    )
