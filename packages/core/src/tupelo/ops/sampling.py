"""Choosing tokens: grammar masks, and temperature-free filtering with one uniform number a row."""

import torch
from torch import Tensor

NEGATIVE = -1e30
"""Stands in for minus infinity in logits: finite, so that a masked row never becomes NaN. In
float16, which ends at 65504, its lowest finite number takes this place."""


def apply_token_bitmask(logits: Tensor, mask: Tensor) -> Tensor:
    """Forbid tokens whose bit is 0.

    Args:
        logits: (num_rows, vocab_size).
        mask: (num_rows, ceil(vocab_size / 32)) int32; token t is bit ``t % 32`` of word ``t //
            32``.

    Returns:
        Logits of the same shape and dtype, ``NEGATIVE`` where forbidden.
    """
    bits = torch.arange(32, device=mask.device, dtype=torch.int32)
    shifted = torch.bitwise_right_shift(mask.unsqueeze(-1), bits)  # for >>, some devices divide
    allowed = (shifted & 1).bool().flatten(1)[:, : logits.shape[1]]
    lowest = max(NEGATIVE, torch.finfo(logits.dtype).min)
    return torch.where(allowed, logits, torch.full_like(logits, lowest))


def sample_top_k_top_p(
    logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """Draw one id a row by inverse transform over the filtered distribution, most probable first.

    Filters in this order: the ``top_k`` most probable; of those, renormalised, the shortest prefix
    whose probabilities sum to at least ``top_p``; of those, the ones with at least ``min_p`` times
    the largest probability. Equal probabilities are ordered by id. The first token always remains.

    Args:
        logits: (num_rows, vocab_size) float32, temperature applied.
        top_k: (num_rows,) integers; values below 1 or above vocab_size mean all.
        top_p, min_p, uniform: (num_rows,) float32; ``uniform`` in [0, 1).

    Returns:
        (num_rows,) int64 ids.
    """
    ordered, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    place = drawn_place(ordered, top_k, top_p, min_p, uniform)
    return ids.gather(1, place).squeeze(1)


def drawn_place(
    ordered: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """Where ``sample_top_k_top_p`` finds its ids, in logits from the largest on: (num_rows, 1)."""
    rank = torch.arange(ordered.shape[1], device=ordered.device).unsqueeze(0)
    limit = torch.where(top_k < 1, ordered.shape[1], top_k).unsqueeze(1)
    ordered = torch.where(rank < limit, ordered, torch.full_like(ordered, NEGATIVE))
    probs = torch.softmax(ordered, dim=-1)
    before = probs.cumsum(-1) - probs
    keep = (before < top_p.unsqueeze(1)) & (probs >= min_p.unsqueeze(1) * probs[:, :1])
    keep = keep | (rank == 0)
    kept = torch.where(keep, probs, torch.zeros_like(probs))
    total = kept.cumsum(-1)
    threshold = uniform.unsqueeze(1) * total[:, -1:]
    chosen = (total <= threshold).sum(-1, keepdim=True).clamp(max=ordered.shape[1] - 1)
    last_kept = keep.sum(-1, keepdim=True) - 1
    return torch.minimum(chosen, last_kept)
