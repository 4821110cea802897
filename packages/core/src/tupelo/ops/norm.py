"""Root-mean-square normalisation, alone and fused with the residual addition.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
"""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis, computed in float32.

    Args:
        x: (num_tokens, hidden_size), or (num_tokens, num_heads, head_dim).
        weight: (hidden_size,) or (head_dim,), of any float type.
        eps: added to the mean square.

    Returns:
        Same shape and dtype as ``x``.
    """
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.float()).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``r = x + residual``; returns ``(rms_norm(r), r)``.

    Args:
        x, residual: (num_tokens, hidden_size), same dtype. Neither is changed.
        weight: (hidden_size,). eps: as in ``rms_norm``.
    """
    total = x + residual
    return rms_norm(total, weight, eps), total
