"""Sizes of core's attention kernels that were measured on NVIDIA GPUs."""

from tupelo.triton.tuning import AttentionTuning, SharedConfig, shared_config


def attention_tuning() -> AttentionTuning:
    """The sizes for this backend."""
    return AttentionTuning(shared_programs=264, shared=_shared)


def _shared(head_dim: int, itemsize: int) -> SharedConfig:
    if itemsize > 2 or head_dim > 128:
        return shared_config(head_dim, itemsize)
    return SharedConfig(rows=64, block=64, num_warps=4, num_stages=3)
