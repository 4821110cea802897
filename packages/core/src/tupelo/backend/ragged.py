"""Attention without a cache: each token among the tokens of its own row, as encoders have it.

Core's default for ``AttentionBackend.forward_ragged``. A step that is not padded is taken row by
row through torch's own attention, whose host figures are exact; a padded one is masked, so that it
is a function of arrays of fixed sizes.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.backend.step import StepInputs
from tupelo.specs import AttentionSpec

SLICE_TOKENS = 64
"""Query tokens whose scores exist at once where a step is masked."""


def attend_ragged(
    q: Tensor, k: Tensor, v: Tensor, kind: AttentionSpec, inputs: StepInputs
) -> Tensor:
    """``softmax(scale * q k^T [soft-capped] [masked]) v`` within each row; see ``forward_ragged``.

    A token at p sees a key at j of its row, with a window only where ``|p - j| < window``.
    """
    if inputs.host.bucket.tokens:
        return _masked(q, k, v, kind, inputs.cu_seqlens_q, inputs.token_rows)
    out = torch.empty_like(q)
    ends = inputs.host.cu_seqlens_q.tolist()
    for start, stop in itertools.pairwise(ends):
        if stop > start:
            row = slice(start, stop)
            out[row] = _attend(q[row], k[row], v[row], kind)
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, kind: AttentionSpec) -> Tensor:
    """One row: q (n, num_heads, head_dim), k and v (n, num_kv_heads, head_dim)."""
    length = len(q)
    visible = None
    if kind.window is not None and kind.window < length:
        at = torch.arange(length, device=q.device)
        visible = (at.unsqueeze(1) - at).abs() < kind.window
    q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    if kind.soft_cap is None:
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, scale=kind.scale, enable_gqa=True
        )
        return out.transpose(0, 1)
    groups = kind.num_heads // kind.num_kv_heads
    k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    scores = (q.float() @ k.float().transpose(1, 2)) * kind.scale
    scores = kind.soft_cap * torch.tanh(scores / kind.soft_cap)
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1) @ v.float()).to(q.dtype).transpose(0, 1)


def _masked(
    q: Tensor, k: Tensor, v: Tensor, kind: AttentionSpec, cu_seqlens: Tensor, token_rows: Tensor
) -> Tensor:
    """Scores of every pair of tokens, in float32; those of two rows count for nothing."""
    groups = kind.num_heads // kind.num_kv_heads
    at = torch.arange(len(q), device=q.device)
    starts, stops = (cu_seqlens[token_rows + i].unsqueeze(1) for i in (0, 1))
    keys, values = k.float(), v.float()
    parts = []
    for begin in range(0, len(q), SLICE_TOKENS):
        part = slice(begin, begin + SLICE_TOKENS)
        visible = (at >= starts[part]) & (at < stops[part])
        if kind.window is not None:
            visible = visible & ((at[part].unsqueeze(1) - at).abs() < kind.window)
        heads = q[part].float().view(-1, kind.num_kv_heads, groups, kind.head_dim)
        scores = torch.einsum("tngd,lnd->tngl", heads, keys) * kind.scale
        if kind.soft_cap is not None:
            scores = kind.soft_cap * torch.tanh(scores / kind.soft_cap)
        scores = scores.masked_fill(~visible[:, None, None, :], float("-inf"))
        # A padding token sees nobody: 0 / 0.
        weights = torch.softmax(scores, dim=-1).nan_to_num()
        parts.append(torch.einsum("tngl,lnd->tngd", weights, values).flatten(1, 2))
    return torch.cat(parts).to(q.dtype) if parts else q
