"""Root-mean-square and layer normalisation, alone and fused with the residual addition.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019; Ba et al., "Layer
Normalization", 2016.
"""

import torch
import torch.nn.functional as F
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


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axis, in float32.

    Args:
        x: (num_tokens, hidden_size).
        weight: (hidden_size,). bias: same shape, or None for none.
        eps: added to the variance, which is the mean of squares about the mean.

    Returns:
        Same shape and dtype as ``x``.
    """
    wide = None if bias is None else bias.float()
    return F.layer_norm(x.float(), weight.shape, weight.float(), wide, eps).to(x.dtype)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """``r = x + residual``; returns ``(layer_norm(r), r)``.

    Args:
        x, residual: (num_tokens, hidden_size), same dtype. Neither is changed.
        weight, bias, eps: as in ``layer_norm``.
    """
    total = x + residual
    return layer_norm(total, weight, bias, eps), total
