"""Sizes of core's attention kernels by architecture.

None was measured on a card: they follow from what the compiler says of each architecture.
"""

from tupelo.triton.tuning import AttentionTuning
from tupelo_rocm.arch import Arch


def attention_tuning(arch: Arch, units: int) -> AttentionTuning:
    """Attention's sizes.

    Args:
        units: compute units of the device.
    """
    return AttentionTuning(target_programs=4 * units, shared_programs=2 * units)
