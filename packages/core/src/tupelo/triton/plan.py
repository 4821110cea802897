# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""A step's metadata for attention: which rows decode, and the tiles of the rows that extend.

Nothing here reads a device value on the host: sizes are bounds that the host knows, and what a row
really has is found by the kernels. So a plan serves a captured graph, refilled for each replay.
"""

from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.backend.step import StepInputs
from tupelo.triton.elementary import cdiv
from tupelo.triton.shared_work import SharedWork

TILE_TOKENS = 128
"""Query tokens of one tile of the plan; a kernel may take a tile in parts."""

_PLAN_BLOCK = 64


@dataclass(slots=True)
class TritonPlan:
    """One step. The tensors are the step's own, or, refilled, hold copies of a later step's.

    With T tokens and R rows, padded to the bucket:

    Attributes:
        num_tokens: T. max_len: bound of the K/V lengths, or None where the device alone knows.
        decode_rows: rows below it that have one token are decoded; all others are extended.
        one_token_rows: token i is row i's, for all T = R of them; nothing is extended.
        covered: every token belongs to a row, so that attention writes every output.
        cu_seqlens_q, seq_lens, slots, slot_mapping, page_tables: as in ``StepInputs``.
        tile_rows: (num_tiles,) int32, the row of each tile of ``TILE_TOKENS`` new tokens, or -1.
        tile_starts: (num_tiles,) int32, its first token, counted from its row's first new one.
        shared: by spec, the prefixes that decode rows share; empty where each row reads its own.
    """

    num_tokens: int
    max_len: int | None
    decode_rows: int
    one_token_rows: bool
    covered: bool
    cu_seqlens_q: Tensor
    seq_lens: Tensor
    slots: Tensor
    slot_mapping: tuple[Tensor, ...]
    page_tables: tuple[Tensor, ...]
    tile_rows: Tensor
    tile_starts: Tensor
    shared: dict[int, SharedWork] = field(default_factory=dict)

    @property
    def num_tiles(self) -> int:
        """Bound of the tiles, known on the host; those not needed are of row -1."""
        return self.tile_rows.shape[0]


@triton.jit(
    do_not_specialize=["num_rows", "decode_rows", "num_tiles", "halvings"],
    do_not_specialize_on_alignment=["cu_ptr", "tile_rows_ptr", "tile_starts_ptr"],
)
def _tiles_kernel(
    cu_ptr,
    tile_rows_ptr,
    tile_starts_ptr,
    num_rows,
    decode_rows,
    num_tiles,
    halvings,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row r owns tiles from ``cu[r] // TILE + r`` up to where row r + 1 begins: always enough,
    since ``ceil(n / TILE) <= (a + n) // TILE - a // TILE + 1``. Each tile finds its row by
    bisection.
    """
    tiles = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = tiles < num_tiles
    low = tl.zeros((BLOCK,), tl.int32)
    high = tl.zeros((BLOCK,), tl.int32) + num_rows
    for _ in range(halvings):  # the row is in low … high - 1
        middle = (low + high) // 2
        first = tl.load(cu_ptr + middle) // TILE + middle
        right = (first <= tiles) & (middle < num_rows)
        low = tl.where(right, middle, low)
        high = tl.where(right, high, middle)
    begin = tl.load(cu_ptr + low)
    count = tl.load(cu_ptr + low + 1) - begin
    start = (tiles - (begin // TILE + low)) * TILE
    wanted = (start < count) & ((low >= decode_rows) | (count != 1))
    tl.store(tile_rows_ptr + tiles, tl.where(wanted, low, -1), mask=inside)
    tl.store(tile_starts_ptr + tiles, start, mask=inside)


def make_plan(inputs: StepInputs) -> TritonPlan:
    """The plan of a step.

    A step without a bucket runs at its own size, known on the host. With one, the plan holds for
    every step of the bucket: any of its rows may have one token or several, unless the bucket has a
    row for each token and this step decodes only.
    """
    host = inputs.host
    num_tokens, num_rows = inputs.positions.shape[0], inputs.slots.shape[0]
    static = host.bucket.tokens > 0
    one_token_rows = num_tokens == num_rows and host.num_decode_rows == host.num_rows
    num_tiles = 0 if one_token_rows else num_tokens // TILE_TOKENS + num_rows
    device = inputs.positions.device
    tiles = torch.empty((2, num_tiles), dtype=torch.int32, device=device)
    plan = TritonPlan(
        num_tokens=num_tokens,
        max_len=None if static else int(host.seq_lens.max(initial=1)),
        decode_rows=num_rows if static or one_token_rows else host.num_decode_rows,
        one_token_rows=one_token_rows,
        covered=one_token_rows or (host.num_tokens == num_tokens and not static),
        cu_seqlens_q=inputs.cu_seqlens_q,
        seq_lens=inputs.seq_lens,
        slots=inputs.slots,
        slot_mapping=inputs.slot_mapping,
        page_tables=inputs.page_tables,
        tile_rows=tiles[0],
        tile_starts=tiles[1],
    )
    cut_tiles(plan)
    return plan


def make_decode_plan(inputs: StepInputs) -> TritonPlan:
    """The plan of a step's decode rows alone, as ``make_plan``'s; other rows are left out.

    It is a bucket's, and can be refilled, where the bucket has one token a row and the step decodes
    only.
    """
    host = inputs.host
    num_tokens, num_rows = inputs.positions.shape[0], inputs.slots.shape[0]
    decodes_only = num_tokens == num_rows and host.num_decode_rows == host.num_rows
    static = host.bucket.tokens > 0 and decodes_only
    rows = num_rows if static else host.num_decode_rows
    none = torch.empty(0, dtype=torch.int32, device=inputs.positions.device)
    return TritonPlan(
        num_tokens=rows,
        max_len=None if static else int(host.seq_lens[:rows].max(initial=1)),
        decode_rows=rows,
        one_token_rows=True,
        covered=True,
        cu_seqlens_q=inputs.cu_seqlens_q[: rows + 1],
        seq_lens=inputs.seq_lens[:rows],
        slots=inputs.slots[:rows],
        slot_mapping=inputs.slot_mapping,
        page_tables=inputs.page_tables,
        tile_rows=none,
        tile_starts=none,
    )


def can_refill(plan: TritonPlan, inputs: StepInputs) -> bool:
    """Whether a plan holds for a step: both of one bucket, and no more than decoding where the plan
    is for that alone."""
    sizes = (inputs.positions.shape[0], inputs.slots.shape[0])
    same_bucket = plan.max_len is None and sizes == (plan.num_tokens, plan.slots.shape[0])
    decodes_only = inputs.host.num_decode_rows == inputs.host.num_rows
    return same_bucket and (decodes_only or not plan.one_token_rows)


def refill_plan(plan: TritonPlan, inputs: StepInputs) -> TritonPlan:
    """Put a step for which ``can_refill`` holds into a plan's tensors, in stream order.

    Tensors that lie where the plan's do cost nothing, so a runner that keeps a bucket's inputs in
    place refills for free.
    """
    old = (plan.cu_seqlens_q, plan.seq_lens, plan.slots, *plan.slot_mapping)
    new = (inputs.cu_seqlens_q, inputs.seq_lens, inputs.slots, *inputs.slot_mapping)
    for target, source in zip(old, new, strict=True):
        if target.data_ptr() != source.data_ptr():
            target.copy_(source)
    for ours, theirs in zip(plan.page_tables, inputs.page_tables, strict=True):
        assert ours.data_ptr() == theirs.data_ptr(), "the slots' page tables never move"
    cut_tiles(plan)
    return plan


def cut_tiles(plan: TritonPlan) -> None:
    """Fill ``tile_rows`` and ``tile_starts`` from the plan's rows."""
    if not plan.num_tiles:
        return
    num_rows = plan.slots.shape[0]
    _tiles_kernel[(cdiv(plan.num_tiles, _PLAN_BLOCK),)](
        plan.cu_seqlens_q,
        plan.tile_rows,
        plan.tile_starts,
        num_rows,
        plan.decode_rows,
        plan.num_tiles,
        num_rows.bit_length(),
        TILE=TILE_TOKENS,
        BLOCK=_PLAN_BLOCK,
    )
