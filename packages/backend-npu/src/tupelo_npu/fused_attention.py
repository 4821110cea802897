"""CANN's fused attention over pages: one call for all rows of one token, and one for all prompts,
or for each of them.

CANN reads rows' lengths on the host. Pages are the pool's own memory, with heads side by side. It
has no window for rows of one token, so these get a mask; prompts have it as a band.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import KVPool, Runtime, StepInputs
from tupelo.specs import AttentionSpec
from tupelo_npu import calls
from tupelo_npu.graphs import HostLengths
from tupelo_npu.kv_write import Writer, choose_writer

DTYPES = (torch.bfloat16, torch.float16)
PAGE_SIZES = (128, 256, 512)
"""Multiples of 128 up to 512, for prompts; rows of one token could do with multiples of 16."""

LARGEST_GROUP = 64
LARGEST_HEAD = 512
LARGEST_ROW = 65535
"""Elements of a token's K or V, or of its heads."""

MOST_ELEMENTS = 2**31 - 1
"""Of a layer's K."""


def why_not(kind: AttentionSpec, page_size: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> str:
    """Why it cannot serve layers of this kind; "" if it can."""
    if dtype not in DTYPES or kv_dtype is not dtype:
        return f"it computes in 16 bits, not {dtype} over {kv_dtype}"
    if page_size not in PAGE_SIZES:
        return f"pages of {page_size} tokens are none of {PAGE_SIZES}"
    if kind.head_dim % 16 or kind.head_dim > LARGEST_HEAD:
        return f"head_dim {kind.head_dim} is no multiple of 16 up to {LARGEST_HEAD}"
    if kind.num_heads // kind.num_kv_heads > LARGEST_GROUP:
        return f"it has at most {LARGEST_GROUP} query heads to a K/V head"
    if kind.num_heads > 256 or kind.num_heads * kind.head_dim > LARGEST_ROW:
        return f"{kind.num_heads} heads of {kind.head_dim} are more than a token may have"
    return ""


@dataclass(slots=True)
class FusedPlan:
    """One step with R rows, the first D of which have one token each, token i being row i's.

    Attributes:
        static: all rows are such, of a bucket with padding rows; such a plan can be refilled.
        num_tokens: of rows; those beyond are padding.
        lens: (R,) K/V lengths, at least 1.
        ends: ends of the other rows' tokens, from 0.
        tables: by page group (R, width) int32 pages, none negative.
        hidden: by window (R, width * page_size), True where a key lies behind a row's window.
        slot_mapping: as in ``StepInputs``.
        places, scratch: by page group, once a layer has asked for them: where the tokens' K/V go,
            int32, padding in the pool's last page, whose first token is ``scratch``.
    """

    static: bool
    num_decodes: int
    num_tokens: int
    lens: list[int]
    ends: list[int]
    tables: dict[int, Tensor]
    hidden: dict[int, Tensor]
    slot_mapping: tuple[Tensor, ...]
    places: dict[int, Tensor] = field(default_factory=dict)
    scratch: dict[int, int] = field(default_factory=dict)


class FusedAttention:
    """Some layers' attention.

    Args:
        lengths: where graphs find the lengths of the step that is planned.
        by_rows: whether each prompt is a call of its own.
        writer: stores K/V; None: the best that works here.
        others: as for every attention.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = True,
        *,
        lengths: HostLengths,
        by_rows: bool,
        writer: Writer | None = None,
    ) -> None:
        assert in_place, "it writes K/V in place"
        self._specs = tuple(specs)
        self._groups = sorted({kind.group for kind in specs})
        self._windows = sorted({kind.window for kind in specs if kind.window is not None})
        self._page_size = page_size
        self._max_pages = max_pages
        self._lengths = lengths
        self._by_rows = by_rows
        self._write = writer
        device = runtime.device
        self._keys = torch.arange(max_pages * page_size, dtype=torch.int32, device=device)
        square = torch.ones((calls.MASK_SIZE,) * 2, dtype=torch.bool, device=device)
        self._above = square.triu(1)

    def plan(self, inputs: StepInputs, out: FusedPlan | None = None) -> FusedPlan:
        """As ``AttentionBackend.plan``; only plans of decode buckets are refilled."""
        host = inputs.host
        rows = inputs.slots.shape[0]
        static = (
            host.bucket.tokens > 0
            and inputs.positions.shape[0] == rows
            and host.num_decode_rows == host.num_rows
        )
        if out is not None and out.static and static and len(out.lens) == rows:
            self._fill(out, inputs)
            return out
        counts = np.diff(host.cu_seqlens_q)
        rows = rows if static else host.num_rows
        decodes = rows if static else int((np.cumprod(counts == 1)).sum())
        longest = int(host.seq_lens.max(initial=1))
        width = self._max_pages if static else -(-longest // self._page_size)
        shape, device = (rows, width), inputs.positions.device
        plan = FusedPlan(
            static=static,
            num_decodes=decodes,
            num_tokens=rows if static else host.num_tokens,
            lens=[1] * rows,
            ends=np.cumsum(counts[decodes:]).tolist(),
            tables={g: torch.empty(shape, dtype=torch.int32, device=device) for g in self._groups},
            hidden={
                window: torch.empty(
                    (rows, width * self._page_size), dtype=torch.bool, device=device
                )
                for window in self._windows
            },
            slot_mapping=inputs.slot_mapping,
        )
        self._fill(plan, inputs)
        return plan

    def _fill(self, plan: FusedPlan, inputs: StepInputs) -> None:
        """Put a step into a plan's memory, in stream order."""
        lens = inputs.host.seq_lens
        plan.lens[:] = [*np.maximum(lens, 1).tolist(), *[1] * (len(plan.lens) - len(lens))]
        self._lengths.now = plan.lens
        rows = len(plan.lens)
        for group, table in plan.tables.items():
            pages = inputs.page_tables[group][:, : table.shape[1]]
            table.copy_(pages.index_select(0, inputs.slots[:rows]).clamp_(min=0))
        for window, hidden in plan.hidden.items():
            last = inputs.seq_lens[:rows].unsqueeze(1) - 1 - window
            hidden.copy_(self._keys[: hidden.shape[1]] <= last)
        plan.slot_mapping = inputs.slot_mapping
        for group, places in plan.places.items():
            places.copy_(self._placed(plan, group))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: FusedPlan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """As ``AttentionBackend.forward``."""
        assert sinks is None, "sinks are not declared"
        kind, (k_pool, v_pool) = self._specs[spec], kv.buffers(layer)
        group = kind.group
        if group not in plan.places:
            plan.scratch[group] = (k_pool.shape[0] - 1) * self._page_size
            plan.places[group] = self._placed(plan, group)
        if self._write is None:
            self._write = choose_writer(k_pool)
        self._write(k.contiguous(), v.contiguous(), k_pool, v_pool, plan.places[group])
        return self._attend(q.contiguous(), kind, k_pool.flatten(2), v_pool.flatten(2), plan)

    def warmup(self, spec: int, layer: int, kv: KVPool, dtype: torch.dtype) -> None:
        """Nothing: CANN brings its kernels built."""

    def _placed(self, plan: FusedPlan, group: int) -> Tensor:
        """Where tokens' K/V go; padding in the scratch page, a place for each while there are."""
        mapping = plan.slot_mapping[group]
        spread = torch.arange(len(mapping), device=mapping.device) % self._page_size
        return torch.where(mapping < 0, spread + plan.scratch[group], mapping).int()

    def _attend(
        self, q: Tensor, kind: AttentionSpec, k_pool: Tensor, v_pool: Tensor, plan: FusedPlan
    ) -> Tensor:
        count, total = plan.num_decodes, plan.num_tokens
        parts: list[Tensor] = []
        if count:
            parts.append(self._single(q[:count], kind, k_pool, v_pool, plan, slice(0, count)))
        if plan.ends and not self._by_rows:
            parts.append(self._prompts(q[count:total], kind, k_pool, v_pool, plan))
        elif plan.ends:
            parts += self._row_by_row(q[count:total], kind, k_pool, v_pool, plan)
        if total < len(q):
            parts.append(torch.zeros_like(q[total:]))
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _single(
        self,
        q: Tensor,
        kind: AttentionSpec,
        k_pool: Tensor,
        v_pool: Tensor,
        plan: FusedPlan,
        rows: slice,
    ) -> Tensor:
        """Rows of one token each."""
        out = self._call(
            q.view(len(q), 1, -1),
            kind,
            (k_pool, v_pool),
            layout="BSH",
            table=self._table(plan, kind, rows),
            lens=plan.lens if plan.static else plan.lens[rows],
            ends=None,
            mask=None if kind.window is None else plan.hidden[kind.window][rows],
            sparse_mode=calls.PLAIN,
        )
        return out.view(q.shape)

    def _prompts(
        self, q: Tensor, kind: AttentionSpec, k_pool: Tensor, v_pool: Tensor, plan: FusedPlan
    ) -> Tensor:
        """All other rows at once."""
        rows = slice(plan.num_decodes, None)
        return self._call(
            q,
            kind,
            (k_pool, v_pool),
            layout="TND",
            table=self._table(plan, kind, rows),
            lens=plan.lens[rows],
            ends=plan.ends,
            mask=self._above,
            sparse_mode=calls.CAUSAL if kind.window is None else calls.BAND,
        )

    def _row_by_row(
        self, q: Tensor, kind: AttentionSpec, k_pool: Tensor, v_pool: Tensor, plan: FusedPlan
    ) -> list[Tensor]:
        """The other rows, a call for each."""
        parts = []
        for i, (begin, end) in enumerate(zip([0, *plan.ends], plan.ends, strict=False)):
            rows = slice(plan.num_decodes + i, plan.num_decodes + i + 1)
            part = q[begin:end]
            if len(part) == 1:
                parts.append(self._single(part, kind, k_pool, v_pool, plan, rows))
            elif len(part):
                out = self._call(
                    part.view(1, len(part), -1),
                    kind,
                    (k_pool, v_pool),
                    layout="BSH",
                    table=self._table(plan, kind, rows),
                    lens=plan.lens[rows],
                    ends=[len(part)],
                    mask=self._above,
                    sparse_mode=calls.CAUSAL if kind.window is None else calls.BAND,
                )
                parts.append(out.view(part.shape))
        return parts

    def _table(self, plan: FusedPlan, kind: AttentionSpec, rows: slice) -> Tensor:
        return plan.tables[kind.group][rows]

    def _call(
        self,
        q: Tensor,
        kind: AttentionSpec,
        pools: tuple[Tensor, Tensor],
        *,
        layout: str,
        table: Tensor,
        lens: Sequence[int],
        ends: Sequence[int] | None,
        mask: Tensor | None,
        sparse_mode: int,
    ) -> Tensor:
        return calls.fused_attention(
            q,
            *pools,
            layout=layout,
            num_heads=kind.num_heads,
            num_kv_heads=kind.num_kv_heads,
            scale=kind.scale,
            page_size=self._page_size,
            table=table,
            lens=lens,
            ends=ends,
            mask=mask,
            sparse_mode=sparse_mode,
            back=2**31 - 1 if kind.window is None else kind.window - 1,
        )
