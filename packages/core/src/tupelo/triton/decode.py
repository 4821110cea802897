# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Attention of rows with one new token: each row's keys are cut into splits, then merged.

One program serves all query heads of a K/V head, so K and V are read once. A row's keys are cut
evenly by its length, which only the device knows; the number of splits is fixed by the launcher,
and splits that a short row does not need end at once. A row whose prefix was attended together with
others' (``shared``) has its own tokens cut, and starts from what its prefix gave.
Source of the split over keys: Dao et al., "Flash-Decoding", 2023.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.specs import AttentionSpec
from tupelo.triton.elementary import power_of_two
from tupelo.triton.paged import LOWEST, attend_tile
from tupelo.triton.plan import TritonPlan
from tupelo.triton.shared_work import ROW, SharedParts
from tupelo.triton.tuning import DecodeConfig


@triton.jit
def _first_key(
    rows_ptr, row, length, WINDOW: tl.constexpr, SHARED: tl.constexpr, ROW: tl.constexpr
):
    """Where the row's own keys begin: behind a window, or after a prefix that it shares."""
    low = 0
    if WINDOW > 0:
        low = tl.maximum(length - WINDOW, 0)
    if SHARED:
        low = tl.load(rows_ptr + row * ROW)
    return low


@triton.jit
def _span(length, low, split, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """The keys ``start … end - 1`` of a split, and how many splits of the row have any."""
    size = tl.cdiv(tl.cdiv(length - low, SPLITS), BLOCK) * BLOCK
    size = tl.maximum(size, BLOCK)
    start = low + split * size
    return start, tl.minimum(start + size, length), tl.cdiv(length - low, size)


@triton.jit
def _add_parts(
    peak,
    total,
    acc,
    outs_ptr,
    lses_ptr,
    rows_ptr,
    row,
    split,
    heads,
    cols,
    in_group,
    in_head,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROW: tl.constexpr,
):
    """Add what the row's group has seen of their prefix to the running softmax of split 0."""
    first, stride = tl.load(rows_ptr + row * ROW + 1), tl.load(rows_ptr + row * ROW + 2)
    count = tl.where(split == 0, tl.load(rows_ptr + row * ROW + 3), 0)
    for index in range(count):
        place = (first + index * stride).to(tl.int64) * NUM_HEADS + heads
        lse = tl.load(lses_ptr + place, mask=in_group, other=LOWEST)
        at = place[:, None] * HEAD_DIM + cols[None, :]
        out = tl.load(outs_ptr + at, mask=in_group[:, None] & in_head[None, :], other=0.0)
        new_peak = tl.maximum(peak, lse)
        shrink, weight = tl.exp2(peak - new_peak), tl.exp2(lse - new_peak)
        total = total * shrink + weight
        acc = acc * shrink[:, None] + out * weight[:, None]
        peak = new_peak
    return peak, total, acc


@triton.jit
def _merge_head(
    part_ptr,
    lse_ptr,
    out_ptr,
    head,
    active,
    HEAD_DIM: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr,
):
    """Combine the splits of one head of one row; zeros where the row has no key.

    Args:
        part_ptr, lse_ptr: partial results of the row and head 0; out_ptr: likewise.
    """
    split, cols = tl.arange(0, SPLITS_BLOCK), tl.arange(0, D)
    used, in_head = split < active, cols < HEAD_DIM
    lse = tl.load(lse_ptr + head * SPLITS + split, mask=used, other=float("-inf"))
    weights = tl.where(used, tl.exp2(lse - tl.maximum(tl.max(lse, axis=0), LOWEST)), 0.0)
    at = (head * SPLITS + split)[:, None] * HEAD_DIM + cols[None, :]
    parts = tl.load(part_ptr + at, mask=used[:, None] & in_head[None, :], other=0.0)
    total = tl.maximum(tl.sum(weights, axis=0), 1e-30)
    merged = tl.sum(parts * weights[:, None], axis=0) / total
    to = out_ptr + head * HEAD_DIM + cols
    tl.store(to, merged.to(out_ptr.dtype.element_ty), mask=in_head)


@triton.jit(
    do_not_specialize_on_alignment=[
        "slots_ptr", "seq_lens_ptr", "cu_ptr", "counters_ptr", "rows_ptr"
    ],
)  # fmt: skip
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    part_ptr,
    lse_ptr,
    counters_ptr,
    tables_ptr,
    slots_ptr,
    seq_lens_ptr,
    cu_ptr,
    rows_ptr,
    shared_outs_ptr,
    shared_lses_ptr,
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
    M: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    ONE_TOKEN_ROWS: tl.constexpr,
    SHARED: tl.constexpr,
    ROW: tl.constexpr,
    FUSED_MERGE: tl.constexpr,
):
    """Program (row, K/V head, split).

    With ONE_TOKEN_ROWS token i is row i's, and a row of length 0, padding, gets zeros; without it,
    rows that have other than one token are left alone.
    """
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(seq_lens_ptr + row)
    low = _first_key(rows_ptr, row, length, WINDOW, SHARED, ROW)
    start, end, active = _span(length, low, split, SPLITS, BLOCK)
    if ONE_TOKEN_ROWS:
        token = row
        wanted = (start < end) | (split == 0)
    else:
        token = tl.load(cu_ptr + row)
        wanted = (start < end) & (tl.load(cu_ptr + row + 1) - token == 1)
    if wanted:
        slot = tl.load(slots_ptr + row).to(tl.int64)
        table = tables_ptr + slot * table_stride
        group, cols = tl.arange(0, M), tl.arange(0, D)
        in_group, in_head = group < GROUP, cols < HEAD_DIM
        heads = kv_head * GROUP + group
        inside = in_group[:, None] & in_head[None, :]
        q_at = token.to(tl.int64) * q_token_stride + heads[:, None] * q_head_stride + cols[None, :]
        q = tl.load(q_ptr + q_at, mask=inside, other=0.0)
        k_head, v_head = k_ptr + kv_head * head_stride, v_ptr + kv_head * head_stride
        peak = tl.full((M,), LOWEST, tl.float32)
        total = tl.zeros((M,), tl.float32)
        acc = tl.zeros((M, D), tl.float32)
        if SHARED:
            peak, total, acc = _add_parts(
                peak, total, acc, shared_outs_ptr, shared_lses_ptr, rows_ptr, row, split, heads,
                cols, in_group, in_head, NUM_HEADS, HEAD_DIM, ROW,
            )  # fmt: skip
        for first in range(start, end, BLOCK):
            keys = first + tl.arange(0, BLOCK)
            stored = keys < end
            peak, total, acc = attend_tile(
                q, peak, total, acc, k_head, v_head, table, keys, stored, stored[None, :], cols,
                in_head, page_stride, token_stride, scale, soft_cap, PAGE_SIZE, SOFT_CAP,
                True, True,
            )  # fmt: skip
        result = acc / tl.maximum(total, 1e-30)[:, None]
        if SPLITS == 1:
            to = (token.to(tl.int64) * NUM_HEADS + heads)[:, None] * HEAD_DIM + cols[None, :]
            tl.store(out_ptr + to, result.to(out_ptr.dtype.element_ty), mask=inside)
        else:
            place = (row.to(tl.int64) * NUM_HEADS + heads) * SPLITS + split
            tl.store(part_ptr + place[:, None] * HEAD_DIM + cols[None, :], result, mask=inside)
            lse = tl.where(start < end, peak + tl.log2(tl.maximum(total, 1e-30)), float("-inf"))
            tl.store(lse_ptr + place, lse, mask=in_group)
            if FUSED_MERGE:
                # The last split of the row and head to get here merges them all. The barrier puts
                # every thread's stores before the release.
                tl.debug_barrier()
                counter = counters_ptr + row * tl.num_programs(1) + kv_head
                arrived = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
                if arrived == tl.maximum(active, 1) - 1:
                    base = row.to(tl.int64) * NUM_HEADS * SPLITS
                    to_row = out_ptr + token.to(tl.int64) * NUM_HEADS * HEAD_DIM
                    for g in range(GROUP):
                        _merge_head(
                            part_ptr + base * HEAD_DIM, lse_ptr + base, to_row,
                            kv_head * GROUP + g, active, HEAD_DIM, D, SPLITS, SPLITS_BLOCK,
                        )  # fmt: skip
                    tl.store(counter, 0)


@triton.jit(do_not_specialize_on_alignment=["seq_lens_ptr", "cu_ptr", "rows_ptr"])
def _merge_kernel(
    part_ptr,
    lse_ptr,
    out_ptr,
    seq_lens_ptr,
    cu_ptr,
    rows_ptr,
    HEAD_DIM: tl.constexpr,
    D: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    ONE_TOKEN_ROWS: tl.constexpr,
    SHARED: tl.constexpr,
    ROW: tl.constexpr,
):
    """Program (row, head): the merge as a launch of its own."""
    row, head = tl.program_id(0), tl.program_id(1)
    if ONE_TOKEN_ROWS:
        token = row
        wanted = row >= 0
    else:
        token = tl.load(cu_ptr + row)
        wanted = tl.load(cu_ptr + row + 1) - token == 1
    if wanted:
        length = tl.load(seq_lens_ptr + row)
        low = _first_key(rows_ptr, row, length, WINDOW, SHARED, ROW)
        _, _, active = _span(length, low, 0, SPLITS, BLOCK)
        base = row.to(tl.int64) * NUM_HEADS * SPLITS
        _merge_head(
            part_ptr + base * HEAD_DIM, lse_ptr + base,
            out_ptr + token.to(tl.int64) * NUM_HEADS * HEAD_DIM,
            head, active, HEAD_DIM, D, SPLITS, SPLITS_BLOCK,
        )  # fmt: skip


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor,
    spec: AttentionSpec,
    plan: TritonPlan,
    splits: int,
    config: DecodeConfig,
    counters: Tensor | None = None,
    shared: SharedParts | None = None,
) -> None:
    """Attend the plan's first ``decode_rows`` rows, those of them that have one token.

    Args:
        q: (num_tokens, num_heads, head_dim). out: same shape, contiguous; written in place.
        k_cache, v_cache: (num_pages, page_size, num_kv_heads, head_dim), equal strides.
        splits: programs over the keys of a row.
        counters: (decode_rows * num_kv_heads, or more) int32 zeros, left as zeros: the last split
            of a row merges, with no second launch. None: a second launch merges.
        shared: what rows have seen of their groups' prefixes, which is then not read again.
    """
    rows, dim = plan.decode_rows, spec.head_dim
    part, lse = out, out
    if splits > 1:
        shape = (rows, spec.num_heads, splits, dim)
        part = torch.empty(shape, dtype=torch.float32, device=q.device)
        lse = torch.empty(shape[:-1], dtype=torch.float32, device=q.device)
    padded = max(16, power_of_two(dim))
    group = spec.num_heads // spec.num_kv_heads
    sizes = {
        "HEAD_DIM": dim,
        "D": padded,
        "NUM_HEADS": spec.num_heads,
        "WINDOW": spec.window or 0,
        "SPLITS": splits,
        "SPLITS_BLOCK": power_of_two(splits),
        "BLOCK": config.block,
        "ONE_TOKEN_ROWS": plan.one_token_rows,
        "SHARED": shared is not None,
        "ROW": ROW,
    }
    own = (out, out, out) if shared is None else (shared.rows, shared.outs, shared.lses)
    _decode_kernel[(rows, spec.num_kv_heads, splits)](
        q,
        k_cache,
        v_cache,
        out,
        part,
        lse,
        out if counters is None else counters,
        plan.page_tables[spec.group],
        plan.slots,
        plan.seq_lens,
        plan.cu_seqlens_q,
        *own,
        q.stride(0),
        q.stride(1),
        plan.page_tables[spec.group].stride(0),
        k_cache.stride(0),
        k_cache.stride(1),
        k_cache.stride(2),
        spec.scale,
        spec.soft_cap or 1.0,
        GROUP=group,
        M=max(16, power_of_two(group)),
        PAGE_SIZE=k_cache.shape[1],
        SOFT_CAP=spec.soft_cap is not None,
        FUSED_MERGE=counters is not None,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **sizes,
    )
    if splits > 1 and counters is None:
        _merge_kernel[(rows, spec.num_heads)](
            part, lse, out, plan.seq_lens, plan.cu_seqlens_q, own[0], **sizes
        )
