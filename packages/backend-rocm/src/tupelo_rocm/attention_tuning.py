"""Sizes of core's attention kernels by architecture.

None was measured on a card: they follow from what the compiler says of each architecture. CDNA has
512 registers a lane, which all but one of core's usual sizes fit. RDNA has 256, and RDNA 3 holds
what its matrix instructions read twice: these sizes spill nothing there. A card that is unknown
gets RDNA's.
"""

import torch

from tupelo.triton.tuning import (
    AttentionTuning,
    DecodeConfig,
    ExtendConfig,
    SharedConfig,
    shared_config,
)
from tupelo_rocm.arch import Arch

WIDEST_FLOAT32 = 128
"""Of heads in float32 that 256 registers have room for: no matrix instruction takes that type."""


def attention_tuning(arch: Arch, units: int) -> AttentionTuning:
    """Attention's sizes.

    Args:
        units: compute units of the device.
    """
    if arch.is_cdna:
        return AttentionTuning(
            target_programs=4 * units, shared_programs=2 * units, shared=_shared_cdna
        )
    return AttentionTuning(
        target_programs=4 * units,
        shared_programs=2 * units,
        shared_rows=SHARED_ROWS,
        decode=_decode,
        extend=_extend,
        shared=_shared,
    )


def why_not(arch: Arch, head_dim: int, dtype: torch.dtype) -> str:
    """Why core's attention cannot serve heads of this size; "" if it can."""
    if arch.is_cdna or dtype is not torch.float32 or head_dim <= WIDEST_FLOAT32:
        return ""
    return f"float32 heads of {head_dim} do not fit the registers of {arch.name}"


SHARED_ROWS = 32


def _decode(head_dim: int, itemsize: int) -> DecodeConfig:
    if itemsize > 2:
        return DecodeConfig(block=16, num_warps=8, num_stages=1)
    if head_dim <= 64:
        return DecodeConfig(block=32, num_warps=4, num_stages=2)
    return DecodeConfig(block=32 if head_dim <= 128 else 16, num_warps=8, num_stages=1)


def _extend(head_dim: int, itemsize: int) -> ExtendConfig:
    if itemsize > 2:
        return ExtendConfig(rows=16, block=16, num_warps=8, num_stages=1, one_loop=True)
    rows = 128 if head_dim <= 64 else 64 if head_dim <= 128 else 16
    block = 32 if head_dim <= 64 else 16
    return ExtendConfig(rows=rows, block=block, num_warps=8, num_stages=1, one_loop=True)


def _shared_cdna(head_dim: int, itemsize: int) -> SharedConfig:
    if itemsize > 2 or head_dim <= 128:
        return shared_config(head_dim, itemsize)
    return SharedConfig(rows=32, block=32, num_warps=8, num_stages=2, one_loop=True)


def _shared(head_dim: int, itemsize: int) -> SharedConfig:
    if itemsize > 2:
        return SharedConfig(rows=16, block=16, num_warps=8, num_stages=1, one_loop=True)
    if head_dim > 128:
        return SharedConfig(rows=16, block=16, num_warps=16, num_stages=1, one_loop=True)
    block = 32 if head_dim <= 64 else 16
    return SharedConfig(rows=SHARED_ROWS, block=block, num_warps=8, num_stages=1, one_loop=True)
