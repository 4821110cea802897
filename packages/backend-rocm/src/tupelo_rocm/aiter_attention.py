"""AITER's unified attention, in Triton: decode rows, prompts and chunks of them in one launch.

Two things differ from what steps bring: it reads a page table of each row, not of each slot, so
tables are gathered once a step; and no row may be empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import KVPool, Runtime, StepInputs
from tupelo.specs import AttentionSpec
from tupelo.triton.elementary import power_of_two
from tupelo.triton.paged import store_kv
from tupelo_rocm.aiter_calls import load

DTYPES = (torch.bfloat16, torch.float16)
SMALLEST_PAGE = 16
"""Keys of one product of its tiles."""

WARM_ROWS = (1, 2, 4, 8, 16, 32, 64)
WARM_QUERIES = (1, 2, 256)
WARM_KEYS = (512, 1024)
"""What its launcher chooses kernels by: rows, the most query tokens of one, the most keys."""


def why_not(kind: AttentionSpec, page_size: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> str:
    """Why it cannot serve layers of this kind; "" if it can."""
    if dtype not in DTYPES or kv_dtype is not dtype:
        return f"it computes in 16 bits, not {dtype} over {kv_dtype}"
    if page_size < SMALLEST_PAGE or page_size != power_of_two(page_size):
        return f"pages of {page_size} tokens: it needs a power of two from {SMALLEST_PAGE} on"
    return ""


@dataclass(slots=True)
class AiterPlan:
    """One step, with T tokens and R rows.

    Attributes:
        decodes: every row has one token, token i being row i's; such a plan of a bucket can be
            refilled.
        num_tokens: of rows; those beyond are padding.
        max_queries, max_keys: bounds of a row's tokens.
        cu_seqlens: (R + 1,) int32; where every row decodes, padding rows have a token too.
        lens: (R,) int32, at least 1.
        tables: by page group (R, max_pages) int32, at least 0.
        slot_mapping: as in ``StepInputs``.
    """

    decodes: bool
    num_tokens: int
    max_queries: int
    max_keys: int
    cu_seqlens: Tensor
    lens: Tensor
    tables: dict[int, Tensor]
    slot_mapping: tuple[Tensor, ...]

    def holds(self, rows: int, longest: int) -> bool:
        """Whether it is of a bucket of so many decode rows, each of any length."""
        return self.decodes and len(self.lens) == rows and self.max_keys == longest


class AiterAttention:
    """Some layers' attention; arguments as for every attention.

    Raises:
        AiterError: it cannot be used here.
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
        self._attend = load("unified_attention")

    def plan(self, inputs: StepInputs, out: AiterPlan | None = None) -> AiterPlan:
        """As ``AttentionBackend.plan``; only plans of decode buckets are refilled."""
        host = inputs.host
        static = host.bucket.tokens > 0
        tokens, rows = inputs.positions.shape[0], inputs.slots.shape[0]
        decodes = tokens == rows and host.num_decode_rows == host.num_rows
        if out is not None and static and decodes and out.holds(rows, self._max_len):
            _fill(out, inputs)
            return out
        counts = np.diff(host.cu_seqlens_q)
        longest = int(host.seq_lens.max(initial=1))
        plan = AiterPlan(
            decodes=decodes,
            num_tokens=tokens if decodes else host.num_tokens,
            max_queries=1 if decodes else int(counts.max(initial=1)),
            max_keys=self._max_len if static and decodes else power_of_two(longest),
            cu_seqlens=self._ends(rows) if decodes else inputs.cu_seqlens_q,
            lens=torch.empty_like(inputs.seq_lens),
            tables={
                group: _table(rows, inputs.page_tables[group].shape[1], inputs.positions.device)
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
        plan: AiterPlan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """As ``AttentionBackend.forward``."""
        k_pool, v_pool = kv.buffers(layer)
        store_kv(k, v, k_pool, v_pool, plan.slot_mapping[self._specs[spec].group])
        return self.attend(q, spec, layer, kv, plan, sinks=sinks)

    def attend(
        self,
        q: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: AiterPlan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """``forward`` of tokens whose K/V lie in the pool already."""
        total = plan.num_tokens
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self._launch(q[:total], out[:total], self._specs[spec], kv.buffers(layer), plan, sinks)
        if total < len(q):
            out[total:] = 0
        return out

    def warmup(self, spec: int, layer: int, kv: KVPool, dtype: torch.dtype) -> None:
        """Build its kernels for steps of usual sizes, on rows of one token in page 0."""
        kind, buffers = self._specs[spec], kv.buffers(layer)
        device = buffers[0].device
        sinks = torch.zeros(kind.num_heads, device=device) if kind.sinks else None
        width = self._max_len // buffers[0].shape[1]
        for rows in WARM_ROWS:
            q = torch.zeros((rows, kind.num_heads, kind.head_dim), dtype=dtype, device=device)
            for queries in WARM_QUERIES:
                for keys in WARM_KEYS:
                    plan = AiterPlan(
                        decodes=queries == 1,
                        num_tokens=rows,
                        max_queries=queries,
                        max_keys=keys,
                        cu_seqlens=self._ends(rows),
                        lens=torch.ones(rows, dtype=torch.int32, device=device),
                        tables={kind.group: _table(rows, width, device).zero_()},
                        slot_mapping=(),
                    )
                    self._launch(q, torch.empty_like(q), kind, buffers, plan, sinks)

    def _ends(self, rows: int) -> Tensor:
        """(rows + 1,) int32 of rows of one token."""
        return torch.arange(rows + 1, dtype=torch.int32, device=self._device)

    def _launch(
        self,
        q: Tensor,
        out: Tensor,
        kind: AttentionSpec,
        buffers: tuple[Tensor, Tensor],
        plan: AiterPlan,
        sinks: Tensor | None,
    ) -> None:
        self._attend(
            q=q,
            k=buffers[0],
            v=buffers[1],
            out=out,
            cu_seqlens_q=plan.cu_seqlens,
            max_seqlen_q=plan.max_queries,
            seqused_k=plan.lens,
            max_seqlen_k=plan.max_keys,
            softmax_scale=kind.scale,
            causal=True,
            window_size=(-1 if kind.window is None else kind.window - 1, 0),
            block_table=plan.tables[kind.group],
            softcap=kind.soft_cap or 0.0,
            q_descale=None,
            k_descale=None,
            v_descale=None,
            sinks=sinks,
        )


def _table(rows: int, width: int, device: torch.device) -> Tensor:
    """(rows, width) int32. A tile of its kernels may reach beyond a row's pages, and reads the
    table there, so what follows the last row is memory too."""
    return torch.zeros((rows + 1, width), dtype=torch.int32, device=device)[:rows]


def _fill(plan: AiterPlan, inputs: StepInputs) -> None:
    """Put a step into a plan's memory, in stream order."""
    torch.clamp(inputs.seq_lens, min=1, out=plan.lens)
    for group, table in plan.tables.items():
        torch.index_select(inputs.page_tables[group], 0, inputs.slots, out=table)
        table.clamp_(min=0)  # pages behind every window may be named -1
    for old, new in zip(plan.slot_mapping, inputs.slot_mapping, strict=True):
        if old.data_ptr() != new.data_ptr():
            old.copy_(new)
