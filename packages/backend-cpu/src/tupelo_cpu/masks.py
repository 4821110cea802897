"""Grammar masks, a byte at a time: eight bits choose a row of eight numbers to add to eight logits.

The reference takes every bit out of its word, in int32; this reads a table of 8 kB instead, and is
ten times as fast.
"""

import sys

import torch
from torch import Tensor

from tupelo.ops import OpCall
from tupelo.ops.sampling import NEGATIVE
from tupelo_cpu.elementwise import supports

_BITS = (torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1
_TABLE = torch.where(_BITS.bool(), 0.0, NEGATIVE).to(torch.float32)
"""(256, 8): what each bit of a byte adds to its logit."""


def apply_token_bitmask(logits: Tensor, mask: Tensor) -> Tensor:
    """As ``tupelo.ops.sampling.apply_token_bitmask``: logits (rows, vocab), mask (rows, words).

    Adding is setting: next to 1e30, float32 forgets any logit below 1e22.
    """
    if not logits.numel():
        return logits.clone()
    chosen = mask.contiguous().view(torch.uint8).int()
    added = torch.nn.functional.embedding(chosen, _TABLE).flatten(1)[:, : logits.shape[1]]
    return logits + added


def supports_bitmask(call: OpCall) -> str | None:
    """Whether a word's first byte holds its first bits, and logits are float32."""
    return supports(call) if sys.byteorder == "little" else "reads words as little-endian bytes"
