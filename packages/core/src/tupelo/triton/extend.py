# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Causal attention of rows with several new tokens: prompts, chunks of them, and verified drafts.

One program takes some query tokens with all query heads of one K/V head: a tile of
``tokens x heads`` rows, so that K and V are read once for the whole group.
"""

import triton
import triton.language as tl
from torch import Tensor

from tupelo.specs import AttentionSpec
from tupelo.triton.elementary import cdiv, power_of_two
from tupelo.triton.paged import LOWEST, attend_tile
from tupelo.triton.plan import TILE_TOKENS, TritonPlan
from tupelo.triton.tuning import ExtendConfig


@triton.jit(
    do_not_specialize_on_alignment=[
        "slots_ptr", "seq_lens_ptr", "cu_ptr", "tile_rows_ptr", "tile_starts_ptr"
    ],
)  # fmt: skip
def _extend_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    tables_ptr,
    slots_ptr,
    seq_lens_ptr,
    cu_ptr,
    tile_rows_ptr,
    tile_starts_ptr,
    q_token_stride,
    q_head_stride,
    table_stride,
    page_stride,
    token_stride,
    head_stride,
    scale,
    soft_cap,
    HEAD_DIM: tl.constexpr,
    D: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    PARTS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
    ONE_LOOP: tl.constexpr,
):
    """Program (part of a tile of the plan, K/V head); later tiles, which see more keys, go first.

    Keys are cut at what every query of the program sees, so that most tiles need no mask::

        | low … all_see: no mask (none of this with a window or ONE_LOOP) | all_see … high: masked |
    """
    index = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    row = tl.load(tile_rows_ptr + index // PARTS)
    if row >= 0:
        offset = tl.load(tile_starts_ptr + index // PARTS) + (index % PARTS) * TOKENS
        begin = tl.load(cu_ptr + row)
        count = tl.load(cu_ptr + row + 1) - begin
        if offset < count:
            length = tl.load(seq_lens_ptr + row)
            before = length - count
            table = tables_ptr + tl.load(slots_ptr + row).to(tl.int64) * table_stride
            lane, cols = tl.arange(0, TOKENS * GROUP_BLOCK), tl.arange(0, D)
            new, in_head = offset + lane // GROUP_BLOCK, cols < HEAD_DIM
            mine = (new < count) & (lane % GROUP_BLOCK < GROUP)
            heads = kv_head * GROUP + lane % GROUP_BLOCK
            inside = mine[:, None] & in_head[None, :]
            tokens = (begin + new).to(tl.int64)
            q_at = (tokens * q_token_stride + heads * q_head_stride)[:, None] + cols[None, :]
            q = tl.load(q_ptr + q_at, mask=inside, other=0.0)
            k_head, v_head = k_ptr + kv_head * head_stride, v_ptr + kv_head * head_stride
            position = before + new
            low = 0
            if WINDOW > 0:
                low = tl.maximum(before + offset + 1 - WINDOW, 0)
            high = tl.minimum(before + offset + TOKENS, length)
            peak = tl.full((TOKENS * GROUP_BLOCK,), LOWEST, tl.float32)
            total = tl.zeros((TOKENS * GROUP_BLOCK,), tl.float32)
            acc = tl.zeros((TOKENS * GROUP_BLOCK, D), tl.float32)
            all_see = low
            if WINDOW == 0 and not ONE_LOOP:
                all_see = (before + offset + 1) // BLOCK * BLOCK
                for first in range(low, all_see, BLOCK):
                    keys = first + tl.arange(0, BLOCK)
                    peak, total, acc = attend_tile(
                        q, peak, total, acc, k_head, v_head, table, keys, keys, keys, cols,
                        in_head, page_stride, token_stride, scale, soft_cap, PAGE_SIZE, SOFT_CAP,
                        False, D != HEAD_DIM,
                    )  # fmt: skip
            for first in range(all_see, high, BLOCK):
                keys = first + tl.arange(0, BLOCK)
                visible = keys[None, :] <= position[:, None]
                if WINDOW > 0:
                    visible = visible & (keys[None, :] > position[:, None] - WINDOW)
                peak, total, acc = attend_tile(
                    q, peak, total, acc, k_head, v_head, table, keys, keys < high, visible, cols,
                    in_head, page_stride, token_stride, scale, soft_cap, PAGE_SIZE, SOFT_CAP,
                    True, True,
                )  # fmt: skip
            result = acc / tl.maximum(total, 1e-30)[:, None]
            to = (tokens * NUM_HEADS + heads)[:, None] * HEAD_DIM + cols[None, :]
            tl.store(out_ptr + to, result.to(out_ptr.dtype.element_ty), mask=inside)


def extend_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor,
    spec: AttentionSpec,
    plan: TritonPlan,
    config: ExtendConfig,
) -> None:
    """Attend the rows that the plan cut into tiles.

    Args:
        q: (num_tokens, num_heads, head_dim). out: same shape, contiguous; written in place.
        k_cache, v_cache: (num_pages, page_size, num_kv_heads, head_dim), equal strides.
    """
    group = spec.num_heads // spec.num_kv_heads
    group_block = power_of_two(group)
    tokens = min(TILE_TOKENS, max(1, config.rows // group_block))
    parts = cdiv(TILE_TOKENS, tokens)
    table = plan.page_tables[spec.group]
    _extend_kernel[(plan.num_tiles * parts, spec.num_kv_heads)](
        q,
        k_cache,
        v_cache,
        out,
        table,
        plan.slots,
        plan.seq_lens,
        plan.cu_seqlens_q,
        plan.tile_rows,
        plan.tile_starts,
        q.stride(0),
        q.stride(1),
        table.stride(0),
        k_cache.stride(0),
        k_cache.stride(1),
        k_cache.stride(2),
        spec.scale,
        spec.soft_cap or 1.0,
        HEAD_DIM=spec.head_dim,
        D=max(16, power_of_two(spec.head_dim)),
        NUM_HEADS=spec.num_heads,
        GROUP=group,
        GROUP_BLOCK=group_block,
        TOKENS=tokens,
        PARTS=parts,
        PAGE_SIZE=k_cache.shape[1],
        WINDOW=spec.window or 0,
        SOFT_CAP=spec.soft_cap is not None,
        BLOCK=config.block,
        ONE_LOOP=config.one_loop,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
