"""A step as libraries for vLLM want it: page tables and lengths of the step's rows, not of slots,
gathered once a step; and no row empty. Attention over it by one launch, whoever's."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import KVPool, Runtime, StepInputs
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


class RowAttention:
    """Some layers' attention over a ``RowPlan``; arguments as for every attention."""

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
        """Put new K/V into the pool; a place of -1 is nowhere."""

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
        """Attend of the plan's tokens into ``out``."""

    def plan(self, inputs: StepInputs, out: RowPlan | None = None) -> RowPlan:
        """As ``AttentionBackend.plan``; only plans of decode buckets are refilled."""
        host = inputs.host
        static = host.bucket.tokens > 0
        tokens, rows = inputs.positions.shape[0], inputs.slots.shape[0]
        decodes = tokens == rows and host.num_decode_rows == host.num_rows
        if out is not None and static and decodes and out.decodes and len(out.lens) == rows:
            _fill(out, inputs)
            return out
        counts, device = np.diff(host.cu_seqlens_q), inputs.positions.device
        ends = torch.arange(rows + 1, dtype=torch.int32, device=device) if decodes else None
        plan = RowPlan(
            decodes=decodes,
            mixed=not decodes and bool((counts == 1).any()),
            num_tokens=tokens if decodes else host.num_tokens,
            max_queries=1 if decodes else int(counts.max(initial=1)),
            max_keys=self._max_len if static else int(host.seq_lens.max(initial=1)),
            cu_seqlens=inputs.cu_seqlens_q if ends is None else ends,
            lens=torch.empty_like(inputs.seq_lens),
            cu_keys=torch.zeros(rows + 1, dtype=torch.int32, device=device),
            tables={
                group: torch.empty(
                    (rows, inputs.page_tables[group].shape[1]), dtype=torch.int32, device=device
                )
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
        total, q = plan.num_tokens, q.contiguous()
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self.launch(q[:total], out[:total], self._specs[spec], kv.buffers(layer), plan, sinks)
        if total < len(q):
            out[total:] = 0
        return out

    def warmup(self, *_: Any) -> None:
        """Nothing is built when it is first called."""


def _fill(plan: RowPlan, inputs: StepInputs) -> None:
    """Put a step into a plan's memory, in stream order."""
    plan.lens.copy_(inputs.seq_lens.clamp(min=1))
    plan.cu_keys[1:].copy_(plan.lens.cumsum(0))
    for group, table in plan.tables.items():
        # Pages behind every window may be named -1.
        table.copy_(inputs.page_tables[group].index_select(0, inputs.slots).clamp(min=0))
    for old, new in zip(plan.slot_mapping, inputs.slot_mapping, strict=True):
        if old is not new:
            old.copy_(new)
