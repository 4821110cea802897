# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Attention of decode rows to the prefix that their group shares, read once for all of them.

One program takes some rows of a group with all query heads of one K/V head: a tile of
``rows x heads``, large enough for matrix instructions. What it has seen goes into parts, which the
kernel for the rows' own tokens (``decode``) starts from.
Source of shared prefixes as products of many rows: Juravsky et al., "Hydragen", 2024; of lists of
work for a fixed grid: Ye et al., "FlashInfer", 2025.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.specs import AttentionSpec
from tupelo.triton.elementary import power_of_two
from tupelo.triton.paged import LOWEST, attend_tile
from tupelo.triton.plan import TritonPlan
from tupelo.triton.shared_work import HEADER, ITEM, SharedParts, SharedWork, WorkSize
from tupelo.triton.tuning import AttentionTuning, SharedConfig


@triton.jit(do_not_specialize_on_alignment=["slots_ptr", "work_ptr"])
def _shared_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    outs_ptr,
    lses_ptr,
    tables_ptr,
    slots_ptr,
    work_ptr,
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
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
    ONE_LOOP: tl.constexpr,
    HEADER: tl.constexpr,
    ITEM: tl.constexpr,
):
    """Each program takes units, ROWS rows of an item for one K/V head, until there are no more."""
    units = tl.load(work_ptr) * (NUM_KV_HEADS * PARTS)
    for unit in range(tl.program_id(0), units, tl.num_programs(0)):
        kv_head = unit % NUM_KV_HEADS
        item = work_ptr + HEADER + (unit // (NUM_KV_HEADS * PARTS)) * ITEM
        skipped = (unit // NUM_KV_HEADS) % PARTS * ROWS
        first_row, num_rows = tl.load(item), tl.load(item + 1) - skipped
        table = tables_ptr + tl.load(slots_ptr + first_row).to(tl.int64) * table_stride
        first_row += skipped
        start, part = tl.load(item + 2), tl.load(item + 4) + skipped
        end = tl.where(num_rows > 0, tl.load(item + 3), start)
        lane, cols = tl.arange(0, ROWS * GROUP_BLOCK), tl.arange(0, D)
        row, in_head = lane // GROUP_BLOCK, cols < HEAD_DIM
        mine = (row < num_rows) & (lane % GROUP_BLOCK < GROUP)
        heads = kv_head * GROUP + lane % GROUP_BLOCK
        inside = mine[:, None] & in_head[None, :]
        tokens = (first_row + row).to(tl.int64)
        q_at = (tokens * q_token_stride + heads * q_head_stride)[:, None] + cols[None, :]
        q = tl.load(q_ptr + q_at, mask=inside, other=0.0)
        k_head, v_head = k_ptr + kv_head * head_stride, v_ptr + kv_head * head_stride
        peak = tl.full((ROWS * GROUP_BLOCK,), LOWEST, tl.float32)
        total = tl.zeros((ROWS * GROUP_BLOCK,), tl.float32)
        acc = tl.zeros((ROWS * GROUP_BLOCK, D), tl.float32)
        whole = start
        if not ONE_LOOP:
            whole = start + (end - start) // BLOCK * BLOCK
            for first in range(start, whole, BLOCK):
                keys = first + tl.arange(0, BLOCK)
                peak, total, acc = attend_tile(
                    q, peak, total, acc, k_head, v_head, table, keys, keys, keys, cols, in_head,
                    page_stride, token_stride, scale, soft_cap, PAGE_SIZE, SOFT_CAP,
                    False, D != HEAD_DIM,
                )  # fmt: skip
        for first in range(whole, end, BLOCK):
            keys = first + tl.arange(0, BLOCK)
            stored = keys < end
            peak, total, acc = attend_tile(
                q, peak, total, acc, k_head, v_head, table, keys, stored, stored[None, :], cols,
                in_head, page_stride, token_stride, scale, soft_cap, PAGE_SIZE, SOFT_CAP,
                True, True,
            )  # fmt: skip
        place = (part + row).to(tl.int64) * NUM_HEADS + heads
        to = place[:, None] * HEAD_DIM + cols[None, :]
        total = tl.maximum(total, 1e-30)
        tl.store(outs_ptr + to, acc / total[:, None], mask=inside)
        tl.store(lses_ptr + place, peak + tl.log2(total), mask=mine)


def shared_size(spec: AttentionSpec, num_rows: int, tuning: AttentionTuning) -> WorkSize:
    """What a work list for layers of ``spec`` is for."""
    heads = power_of_two(spec.num_heads // spec.num_kv_heads)
    return WorkSize(
        num_rows=num_rows,
        num_kv_heads=spec.num_kv_heads,
        tile_rows=max(1, tuning.shared_rows // heads),
        programs=tuning.shared_programs,
        min_keys=tuning.min_shared_keys,
    )


def shared_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    spec: AttentionSpec,
    plan: TritonPlan,
    work: SharedWork,
    config: SharedConfig,
) -> SharedParts:
    """Attend rows to what their groups share.

    Args:
        q: (num_tokens, num_heads, head_dim); token i is row i's, for all rows of groups.
        k_cache, v_cache: (num_pages, page_size, num_kv_heads, head_dim), equal strides.
        work: of the size that ``shared_size`` says.

    Returns:
        The parts, where the work list says.
    """
    size = work.size
    shape = (size.max_parts, spec.num_heads, spec.head_dim)
    outs = torch.empty(shape, dtype=torch.float32, device=q.device)
    lses = torch.empty(shape[:-1], dtype=torch.float32, device=q.device)
    group = spec.num_heads // spec.num_kv_heads
    table = plan.page_tables[spec.group]
    rows = max(1, min(size.tile_rows, config.rows // power_of_two(group)))
    programs = min(size.programs, size.max_items * spec.num_kv_heads)
    _shared_kernel[(programs,)](
        q,
        k_cache,
        v_cache,
        outs,
        lses,
        table,
        plan.slots,
        work.ints,
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
        NUM_KV_HEADS=spec.num_kv_heads,
        GROUP=group,
        GROUP_BLOCK=power_of_two(group),
        ROWS=rows,
        PARTS=size.tile_rows // rows,
        PAGE_SIZE=k_cache.shape[1],
        SOFT_CAP=spec.soft_cap is not None,
        BLOCK=config.block,
        ONE_LOOP=config.one_loop,
        HEADER=HEADER,
        ITEM=ITEM,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return SharedParts(work.rows, outs, lses)
