"""Sizes of core's attention kernels on Ascend.

None was measured on an NPU. The tiles are core's own: what one core's unified buffer, 192 KiB, does
not hold is refused by the compiler at once, and torch's reference serves.
"""

from tupelo.triton.tuning import AttentionTuning


def attention_tuning() -> AttentionTuning:
    """Attention's sizes."""
    return AttentionTuning(target_programs=96, shared_programs=48)
