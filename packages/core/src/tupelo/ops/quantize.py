"""Dynamic quantisation of activations, one scale a row."""

import torch
from torch import Tensor


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale a row: ``scale = max|x| / 127``; ``q = round(x / scale)``.

    Args:
        x: (num_tokens, hidden_size).

    Returns:
        q (num_tokens, hidden_size) int8 and scale (num_tokens, 1) float32; a zero row has scale 1.
    """
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True) / 127.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.round(wide / scale).clamp(-127, 127).to(torch.int8), scale
