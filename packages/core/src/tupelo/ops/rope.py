"""Rotary position embedding, fused with splitting a packed QKV product and with per-head norms.

Source: Su et al., "RoFormer", 2021; the two halves of a head are rotated against each other
    ("neox" form).
"""

import torch
from torch import Tensor

from tupelo.ops.norm import rms_norm


def rope(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate the first ``rotary_dim`` elements of each head by the angle of its position.

    ``out[:d/2] = x1 cos - x2 sin``; ``out[d/2:d] = x2 cos + x1 sin`` with ``d = rotary_dim``.

    Args:
        x: (num_tokens, num_heads, head_dim).
        positions: (num_tokens,) integers, below ``max_position``.
        cos_sin: (max_position, rotary_dim) float32; cosines, then sines, ``rotary_dim / 2`` each.

    Returns:
        Same shape and dtype as ``x``; elements from ``rotary_dim`` on are unchanged.
    """
    half = cos_sin.shape[-1] // 2
    angles = cos_sin[positions].unsqueeze(1)
    cos, sin = angles[..., :half], angles[..., half:]
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((turned.to(x.dtype), x[..., 2 * half :]), dim=-1)


def norm_rope_qkv(
    qkv: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split a packed QKV product into heads, norm q and k per head where asked, rotate q and k.

    Args:
        qkv: (num_tokens, (num_heads + 2 * num_kv_heads) * head_dim).
        positions, cos_sin: as in ``rope``.
        q_norm, k_norm: (head_dim,) weights of the per-head norm, or None for none.
        eps: of those norms.

    Returns:
        q (num_tokens, num_heads, head_dim), k and v (num_tokens, num_kv_heads, head_dim).
    """
    heads = qkv.view(qkv.shape[0], num_heads + 2 * num_kv_heads, head_dim)
    q, k, v = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads], dim=1)
    if q_norm is not None:
        q = rms_norm(q, q_norm, eps)
    if k_norm is not None:
        k = rms_norm(k, k_norm, eps)
    return rope(q, positions, cos_sin), rope(k, positions, cos_sin), v
