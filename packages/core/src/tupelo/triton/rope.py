# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Splitting a packed QKV product: per-head norms, rotation and, if asked, the store into pages.

Ops: ``rope``, ``norm_rope_qkv``. ``norm_rope_qkv_store`` is the latter with K and V written
straight into the paged cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.triton.elementary import cdiv, power_of_two

HEADS = 8
"""Heads that one program takes."""


@triton.jit
def _head_scale(first, second, rest, WIDTH: tl.constexpr, eps):
    """Per head ``1 / sqrt(mean square + eps)``, over the three parts of each head."""
    squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
    return tl.rsqrt((squares + tl.sum(rest * rest, axis=1)) / WIDTH + eps)


@triton.jit
def _head_weight(
    q_norm_ptr, k_norm_ptr, is_q, is_k, cols, inside, Q: tl.constexpr, K: tl.constexpr
):
    """(heads, cols) weights of the norm: q's, k's, or 1 where a head is not normed."""
    weight = tl.full((is_q.shape[0], cols.shape[0]), 1.0, tl.float32)
    if Q:
        q = tl.load(q_norm_ptr + cols, mask=inside, other=0.0).to(tl.float32)
        weight = tl.where(is_q[:, None], q[None, :], weight)
    if K:
        k = tl.load(k_norm_ptr + cols, mask=inside, other=0.0).to(tl.float32)
        weight = tl.where(is_k[:, None], k[None, :], weight)
    return weight


@triton.jit
def _store_part(q_ptr, k_ptr, v_ptr, to_q, to_k, to_v, cols, inside, part, in_q, in_k, in_v):
    """Write one part of each head to where the head belongs."""
    for_q, for_k = in_q[:, None] & inside[None, :], in_k[:, None] & inside[None, :]
    tl.store(q_ptr + to_q[:, None] + cols[None, :], part.to(q_ptr.dtype.element_ty), mask=for_q)
    tl.store(k_ptr + to_k[:, None] + cols[None, :], part.to(k_ptr.dtype.element_ty), mask=for_k)
    for_v = in_v[:, None] & inside[None, :]
    tl.store(v_ptr + to_v[:, None] + cols[None, :], part.to(v_ptr.dtype.element_ty), mask=for_v)


@triton.jit(do_not_specialize_on_alignment=["positions_ptr", "slot_mapping_ptr"])
def _rope_kernel(
    x_ptr,
    positions_ptr,
    cos_sin_ptr,
    q_norm_ptr,
    k_norm_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    kept_ptr,
    slot_mapping_ptr,
    cos_sin_stride,
    x_token_stride,
    x_head_stride,
    page_stride,
    token_stride,
    head_stride,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    NUM_V_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    NORM_Q: tl.constexpr,
    NORM_K: tl.constexpr,
    STORE: tl.constexpr,
    KEEP: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Program (token, HEADS heads). A head is cut into its parts::

        | first: HALF | second: HALF | rest: HEAD_DIM - 2 HALF, not rotated |

    With STORE, k and v point to the cache, and the token goes to page ``slot // PAGE_SIZE``; with
    KEEP, k goes to ``kept`` too, token by token.
    """
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    in_q = heads < NUM_HEADS
    in_k = (heads >= NUM_HEADS) & (heads < NUM_HEADS + NUM_KV_HEADS)
    in_v = (heads >= NUM_HEADS + NUM_KV_HEADS) & (heads < NUM_HEADS + NUM_KV_HEADS + NUM_V_HEADS)
    any_head = in_q | in_k | in_v
    half, rest_cols = tl.arange(0, HALF_BLOCK), 2 * HALF + tl.arange(0, REST_BLOCK)
    in_half, in_rest = half < HALF, rest_cols < HEAD_DIM
    at = x_ptr + token * x_token_stride + heads[:, None] * x_head_stride
    half_mask = any_head[:, None] & in_half[None, :]
    first = tl.load(at + half[None, :], mask=half_mask, other=0.0).to(tl.float32)
    second = tl.load(at + HALF + half[None, :], mask=half_mask, other=0.0).to(tl.float32)
    rest_mask = any_head[:, None] & in_rest[None, :]
    rest = tl.load(at + rest_cols[None, :], mask=rest_mask, other=0.0).to(tl.float32)
    if NORM_Q or NORM_K:
        normed = (in_q & NORM_Q) | (in_k & NORM_K)
        scale = tl.where(normed, _head_scale(first, second, rest, HEAD_DIM, eps), 1.0)[:, None]
        first *= scale * _head_weight(
            q_norm_ptr, k_norm_ptr, in_q, in_k, half, in_half, NORM_Q, NORM_K
        )
        second *= scale * _head_weight(
            q_norm_ptr, k_norm_ptr, in_q, in_k, HALF + half, in_half, NORM_Q, NORM_K
        )
        rest *= scale * _head_weight(
            q_norm_ptr, k_norm_ptr, in_q, in_k, rest_cols, in_rest, NORM_Q, NORM_K
        )
    angles = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * cos_sin_stride
    cos = tl.load(angles + half, mask=in_half, other=0.0)[None, :]
    sin = tl.load(angles + HALF + half, mask=in_half, other=0.0)[None, :]
    turned = (in_q | in_k)[:, None]
    first_out = tl.where(turned, first * cos - second * sin, first)
    second_out = tl.where(turned, second * cos + first * sin, second)
    to_q = (token * NUM_HEADS + heads) * HEAD_DIM
    k_heads, v_heads = heads - NUM_HEADS, heads - NUM_HEADS - NUM_KV_HEADS
    if KEEP:
        place = (token * NUM_KV_HEADS + k_heads)[:, None] * HEAD_DIM
        kept, is_k = kept_ptr + place, in_k[:, None]
        kind = kept_ptr.dtype.element_ty
        tl.store(kept + half[None, :], first_out.to(kind), mask=is_k & in_half[None, :])
        tl.store(kept + HALF + half[None, :], second_out.to(kind), mask=is_k & in_half[None, :])
        tl.store(kept + rest_cols[None, :], rest.to(kind), mask=is_k & in_rest[None, :])
    if STORE:
        slot = tl.load(slot_mapping_ptr + token).to(tl.int64)
        end = tl.where(slot >= 0, NUM_HEADS + NUM_KV_HEADS + NUM_V_HEADS, NUM_HEADS)
        in_k, in_v = in_k & (heads < end), in_v & (heads < end)
        start = (slot // PAGE_SIZE) * page_stride + (slot % PAGE_SIZE) * token_stride
        to_k, to_v = start + k_heads * head_stride, start + v_heads * head_stride
    else:
        to_k = (token * NUM_KV_HEADS + k_heads) * HEAD_DIM
        to_v = (token * NUM_V_HEADS + v_heads) * HEAD_DIM
    _store_part(q_ptr, k_ptr, v_ptr, to_q, to_k, to_v, half, in_half, first_out, in_q, in_k, in_v)
    _store_part(
        q_ptr, k_ptr, v_ptr, to_q, to_k, to_v, HALF + half, in_half, second_out, in_q, in_k, in_v
    )
    _store_part(q_ptr, k_ptr, v_ptr, to_q, to_k, to_v, rest_cols, in_rest, rest, in_q, in_k, in_v)


def rope(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """As ``tupelo.ops.rope.rope``."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    sizes = (x.shape[1], 0, x.shape[2])
    _launch(x, x.stride(0), x.stride(1), positions, cos_sin, None, None, 0.0, sizes, out)
    return out


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
    """As ``tupelo.ops.rope.norm_rope_qkv``; v is a view of ``qkv``, as in the reference."""
    rows = qkv.shape[0]
    q = torch.empty((rows, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    k = torch.empty((rows, num_kv_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    sizes = (num_heads, num_kv_heads, head_dim)
    _launch(qkv, qkv.stride(0), head_dim, positions, cos_sin, q_norm, k_norm, eps, sizes, q, k)
    v = qkv[:, (num_heads + num_kv_heads) * head_dim :].view(rows, num_kv_heads, head_dim)
    return q, k, v


def norm_rope_qkv_store(
    qkv: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    k_out: Tensor | None = None,
) -> Tensor:
    """``norm_rope_qkv`` with k and v written into the cache instead of returned.

    Args:
        k_cache, v_cache: (num_pages, page_size, num_kv_heads, head_dim) of any float type, equal
            strides, the last one 1; written in place.
        slot_mapping: (num_tokens,) integers, ``page * page_size + offset``; -1: not stored.
        k_out: (num_tokens, num_kv_heads, head_dim), contiguous; k of every token is written into
            it as well.

    Returns:
        q (num_tokens, num_heads, head_dim).
    """
    assert k_cache.stride() == v_cache.stride()
    q = torch.empty((qkv.shape[0], num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    sizes = (num_heads, num_kv_heads, head_dim)
    cache = (k_cache, v_cache, slot_mapping)
    heads = (qkv.stride(0), head_dim, positions, cos_sin, q_norm, k_norm, eps, sizes)
    _launch(qkv, *heads, q, None, cache, k_out)
    return q


def _launch(
    x: Tensor,
    token_stride: int,
    head_stride: int,
    positions: Tensor,
    cos_sin: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    sizes: tuple[int, int, int],
    q: Tensor,
    k: Tensor | None = None,
    cache: tuple[Tensor, Tensor, Tensor] | None = None,
    kept: Tensor | None = None,
) -> None:
    """Run the kernel; ``sizes`` are num_heads, num_kv_heads and head_dim."""
    num_heads, num_kv_heads, head_dim = sizes
    half = cos_sin.shape[1] // 2
    k_out, v_out, mapping = cache or (q if k is None else k, q, positions)
    total = num_heads + num_kv_heads * (2 if cache else 1)
    if not x.shape[0]:
        return
    _rope_kernel[(x.shape[0], cdiv(total, HEADS))](
        x,
        positions,
        cos_sin,
        x if q_norm is None else q_norm,
        x if k_norm is None else k_norm,
        q,
        k_out,
        v_out,
        q if kept is None else kept,
        mapping,
        cos_sin.stride(0),
        token_stride,
        head_stride,
        k_out.stride(0),
        k_out.stride(1),
        k_out.stride(2),
        eps,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        NUM_V_HEADS=num_kv_heads if cache else 0,
        HEAD_DIM=head_dim,
        HALF=half,
        HALF_BLOCK=power_of_two(half),
        REST_BLOCK=power_of_two(head_dim - 2 * half),
        PAGE_SIZE=k_out.shape[1] if cache else 1,
        NORM_Q=q_norm is not None,
        NORM_K=k_norm is not None,
        STORE=cache is not None,
        KEEP=kept is not None,
        HEADS=HEADS,
        num_warps=2,
    )
