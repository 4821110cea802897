"""Attention by FlashInfer: decode rows and prompts of one step through a kernel each.

Rows of one token (decode rows come first in a batch) go through the kernel that splits K/V among
programs, prompt rows through the one that splits queries. In a padded decode bucket, which a
captured graph replays, all index arrays lie in fixed memory and padding rows read one token of
page 0, which is always finite.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import KVPool, Runtime, StepInputs
from tupelo.batch import Batch
from tupelo.specs import AttentionSpec
from tupelo.triton.paged import store_kv
from tupelo_cuda.flashinfer_plan import (
    PLAN_BYTES,
    FixedBuffers,
    Kind,
    Planner,
    Workspaces,
    build_modules,
)
from tupelo_cuda.paged_kernels import list_pages
from tupelo_cuda.ragged import Ragged, ragged
from tupelo_cuda.staging import StagingRing

STEPS_STAGED = 4
"""Steps whose plans may lie in pinned memory at once; the ring waits beyond."""


@dataclass(slots=True)
class FlashInferPlan:
    """One step.

    Attributes:
        num_tokens: real tokens. num_single: of those, the first ones, which are rows of one token.
        slot_mapping: per page group. singles, prompts: planners by spec, planned for this step.
    """

    num_tokens: int
    num_single: int
    slot_mapping: tuple[Tensor, ...]
    singles: dict[int, Planner] = field(default_factory=dict)
    prompts: dict[int, Planner] = field(default_factory=dict)


class FlashInferAttention:
    """``AttentionBackend`` for some of a model's specs, all of one dtype.

    Args:
        specs: those that it serves, by index.
        num_slots, max_pages: sizes of the page tables.

    Raises:
        RuntimeError, OSError: its kernels could not be built.
    """

    def __init__(
        self,
        specs: dict[int, AttentionSpec],
        page_size: int,
        num_slots: int,
        max_pages: int,
        runtime: Runtime,
        dtype: torch.dtype,
    ) -> None:
        self._specs = specs
        self._page_size = page_size
        self._runtime = runtime
        self._dtype = dtype
        kinds = [self._kind(i, prompts) for i in specs for prompts in (False, True)]
        build_modules(kinds, runtime.device)
        ring = StagingRing(runtime, PLAN_BYTES, STEPS_STAGED * 2 * len(specs))
        self._workspaces = Workspaces(runtime.device, ring)
        self._loose = {
            (index, prompts): self._planner(index, prompts, None)
            for index in specs
            for prompts in (False, True)
        }
        self._rungs: dict[int, tuple[Tensor, dict[int, Planner]]] = {}
        self._groups = sorted({spec.group for spec in specs.values()})
        self._max_indices = num_slots * max_pages
        self._indices: dict[int, Tensor] = {}
        self._arrays_ring: StagingRing | None = None
        self._max_rows = num_slots

    def plan(self, inputs: StepInputs, out: FlashInferPlan | None = None) -> FlashInferPlan:
        """As ``AttentionBackend.plan``; a decode bucket's refills the memory that its graph
        reads."""
        made = self._plan_rung(inputs) if _is_rung(inputs.host) else self._plan_rows(inputs)
        if out is None:
            return made
        for name in FlashInferPlan.__slots__:
            setattr(out, name, getattr(made, name))
        return out

    def _plan_rows(self, inputs: StepInputs) -> FlashInferPlan:
        """Rows of one token that lead the batch, and the others; a prompt's last token may be
        among the former."""
        host, mapping = inputs.host, inputs.slot_mapping
        counts = np.diff(host.cu_seqlens_q)
        longer = np.flatnonzero(counts != 1)
        num_single = int(longer[0]) if len(longer) else len(counts)
        plan = FlashInferPlan(host.num_tokens, num_single, mapping)
        ends = host.cu_seqlens_q
        if num_single:
            lens = host.seq_lens[:num_single]
            plan.singles = self._plan_loose(inputs, 0, ends[: num_single + 1], lens, False)
        if num_single < len(counts):
            begins = np.ascontiguousarray(ends[num_single:] - ends[num_single])
            lens = host.seq_lens[num_single:]
            plan.prompts = self._plan_loose(inputs, num_single, begins, lens, True)
        return plan

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: FlashInferPlan,
    ) -> Tensor:
        """As ``AttentionBackend.forward``."""
        k_pool, v_pool = kv.buffers(layer)
        store_kv(k, v, k_pool, v_pool, plan.slot_mapping[self._specs[spec].group])
        return self.attend(q, spec, layer, kv, plan)

    def attend(self, q: Tensor, spec: int, layer: int, kv: KVPool, plan: FlashInferPlan) -> Tensor:
        """``forward`` without the store: K/V of all rows lie in the pool already."""
        k_pool, v_pool = kv.buffers(layer)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        single, total = plan.num_single, plan.num_tokens
        if plan.singles:
            plan.singles[spec].run(q[:single], k_pool, v_pool, out[:single])
        if plan.prompts:
            plan.prompts[spec].run(q[single:total], k_pool, v_pool, out[single:total])
        if total < len(q):
            out[total:] = 0
        return out

    def _kind(self, index: int, prompts: bool) -> Kind:
        return Kind(self._specs[index], self._dtype, self._page_size, prompts)

    def _planner(self, index: int, prompts: bool, fixed: FixedBuffers | None) -> Planner:
        memory = self._workspaces.plan_memory((index, prompts))
        return Planner(self._kind(index, prompts), self._workspaces, memory, fixed)

    def _plan_loose(
        self, inputs: StepInputs, first: int, ends: np.ndarray, lens: np.ndarray, prompts: bool
    ) -> dict[int, Planner]:
        """Plan some rows, from ``first`` on, with index arrays of their own."""
        pages = ragged(lens, self._page_size)
        rows = pages.num_rows
        packed = self._runtime.to_device(np.concatenate((ends, pages.indptr, pages.last)))
        device_ends, indptr, last = torch.split(packed, [rows + 1, rows + 1, rows])
        slots = inputs.slots[first : first + rows]
        indices = {}
        for group in self._groups:
            indices[group] = packed.new_empty(int(pages.indptr[-1]))
            table = inputs.page_tables[group]
            list_pages(table, slots, indptr, indices[group], rows, pages.max_pages)
        planners = {}
        for index, spec in self._specs.items():
            planner = self._loose[index, prompts]
            arrays = (device_ends, indptr, indices[spec.group], last)
            planner.replan(ends, pages.indptr, pages.lens, arrays)
            planners[index] = planner
        return planners

    def _plan_rung(self, inputs: StepInputs) -> FlashInferPlan:
        """Refill the fixed arrays of a decode bucket, and plan it."""
        host = inputs.host
        rows = host.bucket.rows
        if rows not in self._rungs:
            self._rungs[rows] = self._make_rung(rows)
        fixed, planners = self._rungs[rows]
        pages = ragged(host.seq_lens, self._page_size, rows)
        self._send_rung(fixed, pages)
        for group in self._groups:
            table, indices = inputs.page_tables[group], self._indices[group]
            list_pages(table, inputs.slots, fixed[: rows + 1], indices, rows, pages.max_pages)
        ends = np.arange(rows + 1, dtype=np.int32)
        for planner in planners.values():
            planner.replan(ends, pages.indptr, pages.lens, None)
        return FlashInferPlan(rows, rows, inputs.slot_mapping, planners)

    def _make_rung(self, rows: int) -> tuple[Tensor, dict[int, Planner]]:
        """The fixed array of a bucket, ``indptr`` (rows + 1,) then ``last`` (rows,), and its
        planners."""
        if self._arrays_ring is None:
            self._allocate(rows)
        fixed = torch.zeros(2 * rows + 1, dtype=torch.int32, device=self._runtime.device)
        planners = {}
        for index, spec in self._specs.items():
            buffers = FixedBuffers(
                rows, fixed[: rows + 1], self._indices[spec.group], fixed[rows + 1 :]
            )
            planners[index] = self._planner(index, False, buffers)
        return fixed, planners

    def _send_rung(self, fixed: Tensor, pages: Ragged) -> None:
        """Copy ``indptr`` and ``last`` to where the bucket's graph reads them."""
        assert self._arrays_ring is not None
        entry = self._arrays_ring.take()
        size = 4 * len(fixed)
        staged = entry.array[:size].view(np.int32)
        staged[: pages.num_rows + 1] = pages.indptr
        staged[pages.num_rows + 1 :] = pages.last
        fixed.copy_(entry.tensor[:size].view(torch.int32), non_blocking=True)
        entry.sent()

    def _allocate(self, rows: int) -> None:
        """Page lists for the most rows there can be; ``rows`` is of the bucket met first."""
        most = max(rows, self._max_rows) + 64
        device = self._runtime.device
        self._arrays_ring = StagingRing(self._runtime, 4 * (2 * most + 1), STEPS_STAGED)
        for group in self._groups:
            size = self._max_indices + most
            self._indices[group] = torch.zeros(size, dtype=torch.int32, device=device)


def _is_rung(host: Batch) -> bool:
    """Whether a step is padded to a decode bucket: one token a row, as many as the bucket has."""
    bucket = host.bucket
    return bucket.rows == bucket.tokens > 0 and host.num_tokens == host.num_rows
