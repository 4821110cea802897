"""Attention over pages as one Pallas kernel: decode rows, prompt chunks and both mixed.

The tokens of a step lie in blocks; a block is one program of the grid. It goes through the rows
that have tokens in it, and for each through the pages that these may see, which it copies from HBM
piece by piece, one ahead::

    blocks      b0            b1
    tokens      r0 r1 r2 r2   r2 r2 r3 --
    row_firsts  0             2              the first row with a token in the block
    row_ends    3             4

Every token belongs to one row, so that all rows share the running maximum and sum of the block:
what another row's keys would add is masked to zero. Source of the running softmax: Dao et al.,
"FlashAttention", 2022; of paging on TPUs: JAX's ``paged_attention``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tupelo_tpu.pallas_shape import Shape

NEGATIVE = -1e30
"""Finite, so that a token without keys is no NaN."""


def attend(
    shape: Shape,
    row_firsts: jax.Array,
    row_ends: jax.Array,
    cu_seqlens: jax.Array,
    offsets: jax.Array,
    pages: jax.Array,
    q: jax.Array,
    sinks: jax.Array,
    k_pool: jax.Array,
    v_pool: jax.Array,
) -> jax.Array:
    """Attention of tokens whose K/V are stored already.

    Args:
        row_firsts, row_ends: (num_blocks,) int32, see above. cu_seqlens: (num_rows + 1,) int32.
        offsets: (num_rows,) int32, a row's positions minus the indices of its tokens. pages:
            (num_rows * max_pages,) int32, none negative.
        q: (num_kv_heads, num_blocks * groups * block, head_dim): of a block the first head of each
            group for all tokens, then the second.
        sinks: (num_kv_heads, groups * block, 1) float32; read where ``shape.sinks``.
        k_pool, v_pool: (num_pages, page_size, num_kv_heads * head_dim).

    Returns:
        As ``q``.
    """
    rows = shape.groups * shape.block
    piece = (2, shape.keys, shape.num_kv_heads * shape.head_dim)
    queries = pl.BlockSpec((shape.num_kv_heads, rows, shape.head_dim), lambda b, *_: (0, b, 0))
    state = (shape.num_kv_heads, rows)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=5,
        grid=(q.shape[1] // rows,),
        in_specs=[
            queries,
            pl.BlockSpec((shape.num_kv_heads, rows, 1), lambda b, *_: (0, 0, 0)),
            pl.BlockSpec(memory_space=pltpu.ANY),
            pl.BlockSpec(memory_space=pltpu.ANY),
        ],
        out_specs=queries,
        scratch_shapes=[
            pltpu.VMEM(piece, k_pool.dtype),
            pltpu.VMEM(piece, v_pool.dtype),
            pltpu.SemaphoreType.DMA((2,)),
            pltpu.VMEM((*state, 128), jnp.float32),
            pltpu.VMEM((*state, 128), jnp.float32),
            pltpu.VMEM((*state, shape.head_dim), jnp.float32),
        ],
    )
    call = pl.pallas_call(
        functools.partial(_block, shape),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        grid_spec=grid,
        name="tupelo_paged_attention",
    )
    out: jax.Array = call(
        row_firsts, row_ends, cu_seqlens, offsets, pages, q, sinks, k_pool, v_pool
    )
    return out


def _block(shape: Shape, *refs: Any) -> None:
    """One block of tokens: ``best`` and ``total`` of the softmax so far, ``summed`` values."""
    row_firsts, row_ends, cu_seqlens, offsets, pages, q, sinks, k_pool, v_pool, out, *own = refs
    k_piece, v_piece, arrived, *sums = own
    best, total, summed = sums
    block = pl.program_id(0)
    if shape.sinks:
        best[...] = jnp.broadcast_to(sinks[...], best.shape)
        total[...] = jnp.ones(total.shape, jnp.float32)
    else:
        best[...] = jnp.full(best.shape, NEGATIVE, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
    summed[...] = jnp.zeros(summed.shape, jnp.float32)

    def piece_copies(row: Any, piece: Any, slot: Any) -> list[Any]:
        copies = []
        for i in range(shape.pages):
            at = jnp.minimum(piece * shape.pages + i, shape.max_pages - 1)
            page = pages[row * shape.max_pages + at]
            place = pl.ds(i * shape.page_size, shape.page_size)
            for pool, held in ((k_pool, k_piece), (v_pool, v_piece)):
                target = held.at[slot, place]
                copies.append(pltpu.make_async_copy(pool.at[page], target, arrived.at[slot]))
        return copies

    def start(row: Any, piece: Any) -> None:
        for copy in piece_copies(row, piece, piece % 2):
            copy.start()

    def one_row(row: Any, carry: Any) -> Any:
        begin, end, before = cu_seqlens[row], cu_seqlens[row + 1], offsets[row]
        low = jnp.maximum(begin, block * shape.block) + before
        high = jnp.minimum(end, (block + 1) * shape.block) + before
        seen = 0 if shape.window is None else jnp.maximum(low - shape.window + 1, 0)
        first, stop = seen // shape.keys, pl.cdiv(high, shape.keys)
        stop = jnp.where(high > low, stop, first)

        pl.when(first < stop)(functools.partial(start, row, first))

        def one_piece(piece: Any, carry: Any) -> Any:
            slot = piece % 2

            pl.when(piece + 1 < stop)(functools.partial(start, row, piece + 1))
            for copy in piece_copies(row, piece, slot):
                copy.wait()
            visible = _visible(shape, block, begin, end, before, piece)
            for head in range(shape.num_kv_heads):
                lanes = pl.ds(head * shape.head_dim, shape.head_dim)
                keys, values = k_piece[slot, :, lanes], v_piece[slot, :, lanes]
                _add(shape, q[head], keys, values, visible, head, sums)
            return carry

        return lax.fori_loop(first, stop, one_piece, carry)

    lax.fori_loop(row_firsts[block], row_ends[block], one_row, 0)
    scale = jnp.where(total[:, :, :1] == 0.0, 1.0, total[:, :, :1])
    out[...] = (summed[...] / scale).astype(out.dtype)


def _visible(shape: Shape, block: Any, begin: Any, end: Any, before: Any, piece: Any) -> Any:
    """(groups * block, keys) bool: which keys of a row's piece its tokens of this block see."""
    size = (shape.groups * shape.block, shape.keys)
    place = lax.broadcasted_iota(jnp.int32, size, 0) & (shape.block - 1)
    token = place + block * shape.block
    key = lax.broadcasted_iota(jnp.int32, size, 1) + piece * shape.keys
    distance = token + before - key
    visible = (token >= begin) & (token < end) & (distance >= 0)
    return visible if shape.window is None else visible & (distance < shape.window)


def _add(shape: Shape, q: Any, keys: Any, values: Any, visible: Any, head: int, sums: Any) -> None:
    """Take a piece's keys and values of one K/V head into the running softmax."""
    best, total, summed = sums
    precision = lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    exact = {"precision": precision, "preferred_element_type": jnp.float32}
    contract_last = (((1,), (1,)), ((), ()))
    scores = shape.scale * lax.dot_general(q, keys.astype(q.dtype), contract_last, **exact)
    if shape.soft_cap is not None:
        scores = shape.soft_cap * jnp.tanh(scores / shape.soft_cap)
    scores = jnp.where(visible, scores, NEGATIVE)
    old = best[head, :, :1]
    new = jnp.maximum(old, jnp.max(scores, axis=1, keepdims=True))
    weights = jnp.where(visible, jnp.exp(scores - new), 0.0)
    shrink = jnp.exp(old - new)
    wide = (weights.shape[0], 128)
    best[head] = jnp.broadcast_to(new, wide)
    whole = shrink * total[head, :, :1] + jnp.sum(weights, axis=1, keepdims=True)
    total[head] = jnp.broadcast_to(whole, wide)
    added = jnp.dot(weights.astype(q.dtype), values.astype(q.dtype), **exact)
    summed[head] = shrink * summed[head] + added
