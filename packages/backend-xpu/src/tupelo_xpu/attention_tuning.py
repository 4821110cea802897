"""Sizes of core's attention kernels. None was measured on a GPU."""

from tupelo.triton.tuning import AttentionTuning
from tupelo_xpu.card import Card


def attention_tuning(card: Card) -> AttentionTuning:
    """Attention's sizes: core's tiles fit the 64 KiB of local memory that every Xe core has."""
    return AttentionTuning(target_programs=16 * card.units, shared_programs=8 * card.units)
