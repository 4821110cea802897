"""A step as many libraries' paged attention wants it, and attention over it by their one launch.

Page tables and lengths are those of the step's rows, not of slots, gathered once a step; and no
row is empty.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tupelo.backend.kv_pool import KVPool
from tupelo.backend.runtime import Runtime
from tupelo.backend.step import StepInputs
from tupelo.specs import AttentionSpec


@dataclass(slots=True)
class RowPlan:
    """One step, with T tokens and R rows.

    Attributes:
        decodes: every row has one token, token i being row i's; such a plan of a bucket can be
            refilled.
        mixed: rows of one token are among longer ones.
        num_tokens: of rows; those beyond are padding.
        max_queries, max_keys: bounds of a row's tokens.
        cu_seqlens: (R + 1,) int32; where every row decodes, padding rows have a token too.
        lens: (R,) int32, at least 1. cu_keys: (R + 1,) int32, their sums.
        tables: by page group (R, max_pages) int32, at least 0.
        slot_mapping: as in ``StepInputs``.
    """

    decodes: bool
    mixed: bool
    num_tokens: int
    max_queries: int
    max_keys: int
    cu_seqlens: Tensor
    lens: Tensor
    cu_keys: Tensor
    tables: dict[int, Tensor]
    slot_mapping: tuple[Tensor, ...]

    def holds(self, rows: int, longest: int) -> bool:
        """Whether it is of a bucket of so many decode rows, each of up to so many tokens."""
        return self.decodes and len(self.lens) == rows and self.max_keys == longest


class RowAttention:
    """Some layers' attention over a ``RowPlan``.

    Args:
        specs, page_size, max_pages, runtime, in_place: as for every attention; K/V are written in
            place.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = True,
    ) -> None:
        assert in_place, "it writes K/V in place"
        self._specs = tuple(specs)
        self._groups = sorted({kind.group for kind in specs})
        self._max_len = max_pages * page_size
        self._device = runtime.device

    @abstractmethod
    def store(self, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], places: Tensor) -> None:
        """Put new K/V into the pool.

        Args:
            k, v: (T, num_kv_heads, head_dim). cache: the pool's K and V of a layer.
            places: (T,) slots of the pool; -1 is nowhere.
        """

    @abstractmethod
    def launch(
        self,
        q: Tensor,
        out: Tensor,
        kind: AttentionSpec,
        cache: tuple[Tensor, Tensor],
        plan: RowPlan,
        sinks: Tensor | None,
    ) -> None:
        """Attend of the plan's tokens.

        Args:
            q, out: (num_tokens, num_heads, head_dim); ``out`` is contiguous, and written.
            cache: the pool's K and V of a layer. sinks: (num_heads,) float32, or None.
        """

    def bound(self, num_keys: int) -> int:
        """``max_keys`` for a step whose longest row has so many; one who compiles by it rounds."""
        return num_keys

    def plan(self, inputs: StepInputs, out: RowPlan | None = None) -> RowPlan:
        """As ``AttentionBackend.plan``; only plans of decode buckets are refilled."""
        host = inputs.host
        static = host.bucket.tokens > 0
        tokens, rows = inputs.positions.shape[0], inputs.slots.shape[0]
        decodes = tokens == rows and host.num_decode_rows == host.num_rows
        if out is not None and static and decodes and out.holds(rows, self._max_len):
            _fill(out, inputs)
            return out
        counts, device = np.diff(host.cu_seqlens_q), inputs.positions.device
        longest = int(host.seq_lens.max(initial=1))
        plan = RowPlan(
            decodes=decodes,
            mixed=not decodes and bool((counts == 1).any()),
            num_tokens=tokens if decodes else host.num_tokens,
            max_queries=1 if decodes else int(counts.max(initial=1)),
            max_keys=self._max_len if static and decodes else self.bound(longest),
            cu_seqlens=self.ends(rows) if decodes else inputs.cu_seqlens_q,
            lens=torch.empty_like(inputs.seq_lens),
            cu_keys=torch.zeros(rows + 1, dtype=torch.int32, device=device),
            tables={
                group: row_table(rows, inputs.page_tables[group].shape[1], device)
                for group in self._groups
            },
            slot_mapping=inputs.slot_mapping,
        )
        _fill(plan, inputs)
        return plan

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: RowPlan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """As ``AttentionBackend.forward``."""
        self.store(k, v, kv.buffers(layer), plan.slot_mapping[self._specs[spec].group])
        return self.attend(q, spec, layer, kv, plan, sinks=sinks)

    def attend(
        self,
        q: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: RowPlan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """``forward`` of tokens whose K/V lie in the pool already."""
        total = plan.num_tokens
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self.launch(q[:total], out[:total], self._specs[spec], kv.buffers(layer), plan, sinks)
        if total < len(q):
            out[total:] = 0
        return out

    def warmup(self, spec: int, layer: int, kv: KVPool, dtype: torch.dtype) -> None:
        """As ``AttentionBackend.warmup``: nothing, where kernels come built."""

    def ends(self, rows: int) -> Tensor:
        """(rows + 1,) int32: ``cu_seqlens`` of rows of one token."""
        return torch.arange(rows + 1, dtype=torch.int32, device=self._device)


def row_table(rows: int, width: int, device: torch.device) -> Tensor:
    """(rows, width) int32 zeros. A tile of a kernel may reach beyond a row's pages, and read the
    table there, so what follows the last row is memory too."""
    return torch.zeros((rows + 1, width), dtype=torch.int32, device=device)[:rows]


def _fill(plan: RowPlan, inputs: StepInputs) -> None:
    """Put a step into a plan's memory, in stream order."""
    torch.clamp(inputs.seq_lens, min=1, out=plan.lens)
    torch.cumsum(plan.lens, 0, dtype=torch.int32, out=plan.cu_keys[1:])
    for group, table in plan.tables.items():
        torch.index_select(inputs.page_tables[group], 0, inputs.slots, out=table)
        table.clamp_(min=0)  # pages behind every window may be named -1
    for old, new in zip(plan.slot_mapping, inputs.slot_mapping, strict=True):
        if old.data_ptr() != new.data_ptr():
            old.copy_(new)
