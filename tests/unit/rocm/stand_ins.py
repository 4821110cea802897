"""AITER's functions in torch, by their documentation: what the adapters call where AITER isn't.

Each refuses arguments that AITER's own would refuse: those of ``CALLS``, all by name.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tupelo_rocm.aiter_calls import CALLS, AiterError


def unified_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    cu_seqlens_q: Tensor,
    seqused_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_size: tuple[int, int],
    block_table: Tensor,
    softcap: float,
    sinks: Tensor | None,
    **_: Any,
) -> Tensor:
    """Each row's tokens over its pages."""
    assert seqused_k.min() >= 1
    assert block_table.min() >= 0
    for row, (begin, end) in enumerate(pairwise(cu_seqlens_q.tolist())):
        length, count = int(seqused_k[row]), end - begin
        assert count <= max_seqlen_q
        assert length <= max_seqlen_k
        keys, values = (_pages(pool, block_table[row], length) for pool in (k, v))
        first = length - count
        seen = _attend(
            q[begin:end], keys, values, first, softmax_scale, window_size[0], softcap, sinks
        )
        out[begin:end] = seen
    return out


def paged_attention_v1(
    out: Tensor,
    workspace_buffer: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    scale: float,
    block_tables: Tensor,
    context_lens: Tensor,
    max_context_len: int,
    logits_soft_cap: float,
    partition_size: int,
    sliding_window: int,
    k_scale: Tensor,
    kv_cache_layout: str,
    **_: Any,
) -> Tensor:
    """One token a row."""
    assert kv_cache_layout == "NHD"
    assert float(k_scale) == 1.0
    rows, heads, dim = query.shape
    parts = rows * heads * -(-max_context_len // partition_size)
    assert workspace_buffer.numel() >= parts * (dim * query.element_size() + 8)
    for row in range(rows):
        length = int(context_lens[row])
        assert 1 <= length <= max_context_len
        keys, values = (_pages(p, block_tables[row], length) for p in (key_cache, value_cache))
        back = sliding_window - 1 if sliding_window else -1
        one = query[row : row + 1]
        out[row] = _attend(one, keys, values, length - 1, scale, back, logits_soft_cap, None)[0]
    return out


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    softmax_scale: float,
    logits_soft_cap: float,
    causal: bool,
    window_size: tuple[int, int],
    **_: Any,
) -> Tensor:
    """Rows that see no more than themselves."""
    assert causal
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert int(cu_seqlens_q[0]) == 0
    parts = []
    for begin, end in pairwise(cu_seqlens_q.tolist()):
        own = slice(begin, end)
        row = (q[own], k[own].float(), v[own].float(), 0)
        parts.append(_attend(*row, softmax_scale, window_size[0], logits_soft_cap, None))
    return torch.cat(parts)


def _pages(pool: Tensor, table: Tensor, length: int) -> Tensor:
    """(length, num_kv_heads, head_dim) float32 of a row."""
    at = torch.arange(length)
    return pool[table[at // pool.shape[1]].long(), at % pool.shape[1]].float()


def _attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    first: int,
    scale: float,
    back: int,
    softcap: float,
    sinks: Tensor | None,
) -> Tensor:
    """Tokens from position ``first`` on; ``back`` tokens before each are seen, all if it is -1."""
    group = q.shape[1] // keys.shape[1]
    wide_keys, wide_values = (t.repeat_interleave(group, 1) for t in (keys, values))
    scores = torch.einsum("thd,lhd->htl", q.float(), wide_keys) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    distance = first + torch.arange(len(q))[:, None] - torch.arange(len(keys))
    hidden = distance < 0 if back < 0 else (distance < 0) | (distance > back)
    scores = scores.masked_fill(hidden, float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks.view(-1, 1, 1).expand(-1, len(q), 1)), -1)
    weights = torch.softmax(scores, -1)[..., : len(keys)]
    return torch.einsum("htl,lhd->thd", weights, wide_values).to(q.dtype)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    fn.__name__: fn for fn in (unified_attention, paged_attention_v1, flash_attn_varlen_func)
}


def load(name: str) -> Callable[..., Any]:
    """As ``aiter_calls.load``, of these functions."""
    if name not in FUNCTIONS:
        raise AiterError(f"{name} has no stand-in")

    def checked(**given: Any) -> Any:
        assert set(given) == set(CALLS[name].arguments), f"{name} is called otherwise"
        return FUNCTIONS[name](**given)

    return checked
