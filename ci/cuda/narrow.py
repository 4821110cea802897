"""The CUDA backend, declared as no more than FlashInfer's plain kernels, to run the kit on them.

Each further head size, type, window or soft-cap is a module of its own that takes minutes to build.
"""

from dataclasses import replace

import tupelo_cuda

from tupelo.backend import Backend, Unavailable


def backend() -> Backend | Unavailable:
    """bfloat16, heads of 128, neither windows nor soft-caps."""
    full = tupelo_cuda.backend()
    if isinstance(full, Unavailable):
        return full
    narrow = replace(
        full.capabilities, dtypes=("bfloat16",), head_dims=(128,), window=False, soft_cap=False
    )
    return replace(full, capabilities=narrow)
