"""Joining attention over two disjoint sets of keys.

Source: Ye et al., "Cascade Inference", 2024; the same rescaling as in FlashAttention (Dao et al.,
    2022).
"""

import torch
from torch import Tensor


def merge_attention(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over the union of two key sets from the attention over each.

    ``lse = log(exp(lse_a) + exp(lse_b))``; ``out = out_a exp(lse_a - lse) + out_b exp(lse_b -
    lse)``.

    Args:
        out_a, out_b: (num_tokens, num_heads, head_dim).
        lse_a, lse_b: (num_tokens, num_heads) float32, log of the sum of exponentials of the logits;
            minus infinity where a set is empty (at most one of the two).

    Returns:
        out, dtype of ``out_a``, and lse.
    """
    lse = torch.logaddexp(lse_a, lse_b)
    weight_a = torch.exp(lse_a - lse).unsqueeze(-1)
    weight_b = torch.exp(lse_b - lse).unsqueeze(-1)
    merged = out_a.float() * weight_a + out_b.float() * weight_b
    return merged.to(out_a.dtype), lse
