"""Attention by FlashInfer for prompts, and by core's Triton kernels for decode rows.

Each was the faster one where it is used (docs/performance.md). Decode rows come first in a batch;
the kernels for them read nothing on the host, so a captured graph needs no more of a plan than the
arrays that it was captured with. Prompts run outside of graphs and are planned for each step.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import KVPool, Runtime, StepInputs
from tupelo.backend.graphs.cut import Begun
from tupelo.backend.staging import StagingRing
from tupelo.batch import IntArray
from tupelo.specs import AttentionSpec
from tupelo.triton.attention import TritonAttention
from tupelo.triton.paged import store_kv
from tupelo.triton.plan import TritonPlan
from tupelo_cuda.attention_tuning import attention_tuning
from tupelo_cuda.flashinfer_plan import PLAN_BYTES, Kind, Planner, Workspaces, build_modules
from tupelo_cuda.paged_kernels import list_pages
from tupelo_cuda.ragged import ragged

STEPS_STAGED = 4
"""Steps whose plans may lie in pinned memory at once; the ring waits beyond."""


@dataclass(slots=True)
class FlashInferPlan:
    """One step.

    Attributes:
        num_decode: tokens of decode rows, the first ones. num_tokens: real tokens.
        slot_mapping: per page group.
        decode: of the decode rows; None where there are none.
        prompts: of the other rows, by spec; planned for this step. Empty where there are none.
        fresh: none of those rows has anything stored from before the step.
    """

    num_decode: int
    num_tokens: int
    slot_mapping: tuple[Tensor, ...]
    decode: TritonPlan | None = None
    prompts: dict[int, Planner] = field(default_factory=dict)
    fresh: bool = False


class FlashInferAttention:
    """``AttentionBackend`` for some of a model's specs, all of one dtype.

    Args:
        specs: those that it serves, by index.

    Raises:
        RuntimeError, OSError: its kernels could not be built.
    """

    def __init__(
        self,
        specs: dict[int, AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        dtype: torch.dtype,
    ) -> None:
        self._specs = specs
        self._places = {index: place for place, index in enumerate(specs)}
        self._page_size = page_size
        self._runtime = runtime
        kinds = {index: Kind(spec, dtype, page_size) for index, spec in specs.items()}
        build_modules(list(kinds.values()), runtime.device)
        ring = StagingRing(runtime, PLAN_BYTES, STEPS_STAGED * len(specs))
        workspaces = Workspaces(runtime.device, ring)
        self._planners = {index: Planner(kind, workspaces) for index, kind in kinds.items()}
        self._groups = sorted({spec.group for spec in specs.values()})
        self._decode = TritonAttention(
            tuple(specs.values()), page_size, max_pages, runtime, tuning=attention_tuning()
        )

    def plan(self, inputs: StepInputs, out: FlashInferPlan | None = None) -> FlashInferPlan:
        """As ``AttentionBackend.plan``; a decode bucket's refills the memory that its graph
        reads."""
        host = inputs.host
        rows = host.num_decode_rows
        plan = FlashInferPlan(rows, host.num_tokens, inputs.slot_mapping)
        if rows:
            plan.decode = self._decode.plan_decode(inputs, None if out is None else out.decode)
            plan.num_decode = plan.decode.num_tokens
            plan.num_tokens = max(plan.num_tokens, plan.num_decode)
        if rows < host.num_rows:
            counts = np.diff(host.cu_seqlens_q[rows:])
            plan.fresh = bool((host.seq_lens[rows:] == counts).all())
            self._plan_prompts(inputs, rows, plan.fresh)
            plan.prompts = self._planners
        if out is None:
            return plan
        for name in FlashInferPlan.__slots__:
            setattr(out, name, getattr(plan, name))
        return out

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
        return self.attend(q, spec, layer, kv, plan, (k, v))

    def attend(
        self,
        q: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: FlashInferPlan,
        new: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """``forward`` without the store: K/V of all rows lie in the pool already.

        Args:
            new: the tokens' k and v, which a plan that is ``fresh`` needs.
        """
        out = self.begin(q, spec, layer, kv, plan)
        assert new is not None or not plan.fresh
        k, v = (q, q) if new is None else new
        self.finish(Begun(q, k, v, out), spec, layer, kv, plan)
        if plan.num_tokens < len(q):
            out[plan.num_tokens :] = 0
        return out

    def begin(self, q: Tensor, spec: int, layer: int, kv: KVPool, plan: FlashInferPlan) -> Tensor:
        """``attend`` for decode rows alone; ``finish`` attends the others."""
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        if plan.decode is not None:
            rows, place = plan.num_decode, self._places[spec]
            splits = self._decode.splits(self._specs[spec], plan.decode)
            self._decode.attend_decode(q[:rows], out[:rows], place, layer, kv, plan.decode, splits)
        return out

    def finish(self, begun: Begun, spec: int, layer: int, kv: KVPool, plan: FlashInferPlan) -> None:
        """Attend the prompts; their k and v are read where the plan is ``fresh``."""
        if not plan.prompts:
            return
        q, k, v, out = (tensor[plan.num_decode : plan.num_tokens] for tensor in begun)
        if plan.fresh:
            plan.prompts[spec].run_fresh(q, k, v, out)
        else:
            plan.prompts[spec].run_pages(q, *kv.buffers(layer), out)

    def warmup(self, spec: int, layer: int, kv: KVPool, dtype: torch.dtype) -> None:
        """Build every kernel that decode rows can need; those of prompts were built at once."""
        self._decode.warmup_decode(self._places[spec], layer, kv, dtype)

    def _plan_prompts(self, inputs: StepInputs, first: int, fresh: bool) -> None:
        """Plan the rows from ``first`` on, with index arrays of their own."""
        host = inputs.host
        ends: IntArray = host.cu_seqlens_q[first:] - host.cu_seqlens_q[first]
        if fresh:
            device_ends = self._runtime.to_device(ends)
            for planner in self._planners.values():
                planner.plan_fresh(ends, device_ends)
            return
        pages = ragged(host.seq_lens[first:], self._page_size)
        rows = pages.num_rows
        packed = self._runtime.to_device(np.concatenate((ends, pages.indptr, pages.last)))
        device_ends, indptr, last = torch.split(packed, [rows + 1, rows + 1, rows])
        slots = inputs.slots[first : first + rows]
        indices = {}
        for group in self._groups:
            indices[group] = packed.new_empty(int(pages.indptr[-1]))
            table = inputs.page_tables[group]
            list_pages(table, slots, indptr, indices[group], rows, pages.max_pages)
        for index, planner in self._planners.items():
            arrays = (device_ends, indptr, indices[self._specs[index].group], last)
            planner.plan_pages(ends, pages.indptr, pages.lens, arrays)
