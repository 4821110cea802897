# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""What decode and extend share: the store of new K/V, and one tile of online softmax over pages.

A cache is (num_pages, page_size, num_kv_heads, head_dim) with any strides but the last, which is 1.
Source of the running rescaling: Milakov and Gimelshein, "Online normalizer calculation for
softmax", 2018; of attention in tiles by it: Dao et al., "FlashAttention", 2022.
"""

import triton
import triton.language as tl
from torch import Tensor

from tupelo.triton.elementary import cdiv, power_of_two, tanh

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)
"""Where the running maximum starts: finite, so that a row that sees nothing never becomes NaN."""

STORE_BLOCK = 1024


@triton.jit
def attend_tile(
    q,
    peak,
    total,
    acc,
    k_ptr,
    v_ptr,
    table_ptr,
    keys,
    stored,
    visible,
    cols,
    in_head,
    page_stride,
    token_stride,
    scale,
    soft_cap,
    PAGE_SIZE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    MASKED: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Add the keys of one tile to a running softmax.

    Args:
        q: (M, D). peak, total: (M,) of the scores so far, in base 2. acc: (M, D) float32.
        k_ptr, v_ptr: the cache at this K/V head. table_ptr: the row's page table.
        keys: (N,) positions. stored: (N,) which of them exist. visible: (M, N).
        MASKED: whether ``stored`` and ``visible`` must be asked at all.
        PADDED: whether D is more than the head's size, ``in_head`` telling.

    Returns:
        peak, total, acc.
    """
    if MASKED:
        pages = tl.load(table_ptr + keys // PAGE_SIZE, mask=stored, other=0)
    else:
        pages = tl.load(table_ptr + keys // PAGE_SIZE)
    places = pages.to(tl.int64) * page_stride + (keys % PAGE_SIZE) * token_stride
    at = places[:, None] + cols[None, :]
    if MASKED:
        mask = stored[:, None] & in_head[None, :]
        k = tl.load(k_ptr + at, mask=mask, other=0.0)
        v = tl.load(v_ptr + at, mask=mask, other=0.0)
    elif PADDED:
        k = tl.load(k_ptr + at, mask=in_head[None, :], other=0.0)
        v = tl.load(v_ptr + at, mask=in_head[None, :], other=0.0)
    else:
        k = tl.load(k_ptr + at)
        v = tl.load(v_ptr + at)
    scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * scale
    if SOFT_CAP:
        scores = soft_cap * tanh(scores / soft_cap)
    scores *= LOG2E
    if MASKED:
        scores = tl.where(visible, scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, axis=1))
    shrink = tl.exp2(peak - new_peak)
    weights = tl.exp2(scores - new_peak[:, None])
    total = total * shrink + tl.sum(weights, axis=1)
    acc = acc * shrink[:, None]
    acc = tl.dot(weights.to(q.dtype), v.to(q.dtype), acc, input_precision="ieee")
    return new_peak, total, acc


@triton.jit(do_not_specialize_on_alignment=["slot_mapping_ptr"])
def _store_kernel(
    k_ptr,
    v_ptr,
    k_cache_ptr,
    v_cache_ptr,
    slot_mapping_ptr,
    k_token_stride,
    k_head_stride,
    v_token_stride,
    v_head_stride,
    page_stride,
    token_stride,
    head_stride,
    PAGE_SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (token, block of the token's elements)."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token).to(tl.int64)
    if slot >= 0:
        element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = element < WIDTH
        head, dim = element // HEAD_DIM, element % HEAD_DIM
        from_k = k_ptr + token * k_token_stride + head * k_head_stride + dim
        from_v = v_ptr + token * v_token_stride + head * v_head_stride + dim
        start = (slot // PAGE_SIZE) * page_stride + (slot % PAGE_SIZE) * token_stride
        to = start + head * head_stride + dim
        k = tl.load(from_k, mask=inside).to(k_cache_ptr.dtype.element_ty)
        v = tl.load(from_v, mask=inside).to(v_cache_ptr.dtype.element_ty)
        tl.store(k_cache_ptr + to, k, mask=inside)
        tl.store(v_cache_ptr + to, v, mask=inside)


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """Write new K/V into the cache, in place.

    Args:
        k, v: (num_tokens, num_kv_heads, head_dim), the last axis contiguous.
        k_cache, v_cache: (num_pages, page_size, num_kv_heads, head_dim), equal strides.
        slot_mapping: (num_tokens,) integers, ``page * page_size + offset``; -1: not stored.
    """
    assert k_cache.stride() == v_cache.stride()
    assert k.stride(2) == v.stride(2) == k_cache.stride(3) == 1
    num_tokens, num_kv_heads, head_dim = k.shape
    if not num_tokens:
        return
    width = num_kv_heads * head_dim
    block = min(STORE_BLOCK, power_of_two(width))
    _store_kernel[(num_tokens, cdiv(width, block))](
        k,
        v,
        k_cache,
        v_cache,
        slot_mapping,
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        k_cache.stride(0),
        k_cache.stride(1),
        k_cache.stride(2),
        PAGE_SIZE=k_cache.shape[1],
        WIDTH=width,
        HEAD_DIM=head_dim,
        BLOCK=block,
    )
