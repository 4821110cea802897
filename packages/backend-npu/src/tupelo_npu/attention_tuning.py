"""Sizes of core's attention kernels on Ascend: what one core's unified buffer, 192 KiB, holds.

None was measured on an NPU: they follow from what bishengir-compile says.
"""

from tupelo.triton.tuning import AttentionTuning, ExtendConfig, SharedConfig


def attention_tuning() -> AttentionTuning:
    """Attention's sizes."""
    return AttentionTuning(target_programs=96, shared_programs=48, extend=_extend, shared=_shared)


def _extend(head_dim: int, itemsize: int) -> ExtendConfig:
    """Tiles of half as many rows for heads that are twice as wide."""
    rows = 16 if itemsize > 2 or head_dim > 128 else 32
    return ExtendConfig(rows=rows, block=16, num_warps=4, num_stages=1)


def _shared(head_dim: int, itemsize: int) -> SharedConfig:
    """As of ``_extend``."""
    rows = 16 if itemsize > 2 or head_dim > 128 else 32
    return SharedConfig(rows=rows, block=16, num_warps=4, num_stages=1)
