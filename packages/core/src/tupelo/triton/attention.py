"""Attention over a ``TorchKVPool`` in portable kernels: the contract's ``AttentionBackend``."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tupelo.backend.attention import AttentionBackend
from tupelo.backend.graphs.cut import Begun
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.runtime import Runtime
from tupelo.backend.step import StepInputs
from tupelo.errors import ContractError
from tupelo.specs import AttentionSpec
from tupelo.triton.decode import decode_attention
from tupelo.triton.elementary import cdiv
from tupelo.triton.extend import extend_attention
from tupelo.triton.paged import store_kv
from tupelo.triton.plan import (
    TritonPlan,
    can_refill,
    cut_tiles,
    make_decode_plan,
    make_plan,
    refill_plan,
)
from tupelo.triton.shared import shared_attention, shared_size
from tupelo.triton.shared_work import SharedParts, make_work, refill_work
from tupelo.triton.tuning import AttentionTuning


class TritonAttention(AttentionBackend):
    """Decode rows split over their keys, other rows in causal tiles; both in one step where mixed.

    A prefix that decode rows share (``Batch.prefix_groups``) is read once for all of them.

    Reads no device value on the host. A plan of a bucket is valid for every step of the bucket:
    grids depend on the bucket alone, and the kernels end early where a row is shorter.

    Args:
        tuning: sizes and bounds; a backend may fix them by measuring.

    Raises:
        ContractError: K/V may not be written in place.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = True,
        tuning: AttentionTuning | None = None,
    ) -> None:
        if not in_place:
            raise ContractError("TritonAttention writes K/V in place; functional_kv must be off")
        self._specs = tuple(specs)
        self._max_len = max_pages * page_size
        self._page_size = page_size
        self._runtime = runtime
        self._tuning = tuning or AttentionTuning()
        # Where splits are more than one, rows times K/V heads are fewer than target_programs.
        count = self._tuning.target_programs
        self._counters = torch.zeros(count, dtype=torch.int32, device=runtime.device)

    def plan(self, inputs: StepInputs, out: TritonPlan | None = None) -> TritonPlan:
        """As in the contract; a plan of a bucket that only decodes can't be refilled with a step
        that extends too, and is answered with a new plan. One made for a step with prefix groups
        serves any groups, or none; one made without them reads every row by itself."""
        if out is not None and can_refill(out, inputs):
            return self._refill(out, inputs)
        return self._share(make_plan(inputs), inputs)

    def plan_decode(self, inputs: StepInputs, out: TritonPlan | None = None) -> TritonPlan:
        """``plan`` for the step's decode rows alone, to go with ``attend_decode``: for a backend
        that has kernels of its own for the others."""
        if out is not None and can_refill(out, inputs):
            return self._refill(out, inputs)
        return self._share(make_decode_plan(inputs), inputs)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: TritonPlan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        assert sinks is None, "sinks are not declared"
        k_cache, v_cache = kv.buffers(layer)
        store_kv(k, v, k_cache, v_cache, plan.slot_mapping[self._specs[spec].group])
        return self.attend(q, spec, layer, kv, plan)

    def attend(self, q: Tensor, spec: int, layer: int, kv: KVPool, plan: TritonPlan) -> Tensor:
        """``forward`` without the store: K/V of all rows lie in the cache already.

        Args:
            q: (num_tokens, num_heads, head_dim), the last axis contiguous.

        Returns:
            Same shape and dtype; zeros for padding tokens.
        """
        kind = self._specs[spec]
        k_cache, v_cache = kv.buffers(layer)
        make = torch.empty if plan.covered else torch.zeros
        out = make(q.shape, dtype=q.dtype, device=q.device)
        if plan.decode_rows:
            self.attend_decode(q, out, spec, layer, kv, plan, self.splits(kind, plan))
        if plan.num_tiles:
            sizes = self._tuning.extend(kind.head_dim, q.element_size())
            extend_attention(q, k_cache, v_cache, out, kind, plan, sizes)
        return out

    def begin(self, q: Tensor, spec: int, layer: int, kv: KVPool, plan: TritonPlan) -> Tensor:
        """``attend`` for decode rows alone; ``finish`` attends the others."""
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self.attend_decode(q, out, spec, layer, kv, plan, self.splits(self._specs[spec], plan))
        return out

    def finish(self, begun: Begun, spec: int, layer: int, kv: KVPool, plan: TritonPlan) -> None:
        """Attend the rows that extend."""
        if plan.num_tiles:
            kind = self._specs[spec]
            sizes = self._tuning.extend(kind.head_dim, begun.q.element_size())
            extend_attention(begun.q, *kv.buffers(layer), begun.out, kind, plan, sizes)

    def attend_decode(
        self,
        q: Tensor,
        out: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: TritonPlan,
        splits: int = 1,
    ) -> None:
        """Attend the plan's decode rows, into ``out``, which is contiguous and of q's shape."""
        shared = self._shared(q, spec, kv.buffers(layer), plan)
        self._decode(q, out, self._specs[spec], kv.buffers(layer), plan, splits, shared)

    def splits(self, kind: AttentionSpec, plan: TritonPlan) -> int:
        """Splits of a decode row's keys: enough programs for the device, a power of two.

        It depends on the number of rows and, outside of buckets, on the longest row. There, rows in
        groups have one: what is left of them is short, and every number is one more kernel.
        """
        tuning = self._tuning
        if plan.shared and plan.max_len is not None:
            return 1
        longest = plan.max_len or self._max_len
        if kind.window is not None:
            longest = min(longest, kind.window)
        wanted = tuning.target_programs // (plan.decode_rows * kind.num_kv_heads)
        bound = min(wanted, tuning.max_splits, cdiv(longest, tuning.min_split_tokens))
        return 1 << max(bound, 1).bit_length() - 1

    def warmup(self, spec: int, layer: int, kv: KVPool, dtype: torch.dtype) -> None:
        """Build every kernel that any step can need for a spec, by running it on rows that touch
        nothing.

        A runner that captures buckets builds theirs by capturing; this covers steps without a
        bucket, whose number of splits depends on rows and lengths.

        Args:
            layer: one of the spec's. dtype: of q, k and v.
        """
        kind, (k_cache, v_cache) = self._specs[spec], kv.buffers(layer)
        q = _zeros(kind, dtype, k_cache.device)
        new = q[:, : kind.num_kv_heads].contiguous()
        extend = self._empty_plan(kind, k_cache.device)
        store_kv(new, new, k_cache, v_cache, extend.slot_mapping[kind.group])
        cut_tiles(extend)
        sizes = self._tuning.extend(kind.head_dim, q.element_size())
        extend_attention(q, k_cache, v_cache, torch.zeros_like(q), kind, extend, sizes)
        for one_token_rows in (False, True):
            self.warmup_decode(spec, layer, kv, dtype, one_token_rows=one_token_rows)

    def warmup_decode(
        self,
        spec: int,
        layer: int,
        kv: KVPool,
        dtype: torch.dtype,
        *,
        one_token_rows: bool = True,
    ) -> None:
        """The part of ``warmup`` that ``attend_decode`` can need; as given, for ``plan_decode``."""
        kind, buffers = self._specs[spec], kv.buffers(layer)
        q = _zeros(kind, dtype, buffers[0].device)
        plan = replace(
            self._empty_plan(kind, q.device), decode_rows=1, one_token_rows=one_token_rows
        )
        for exponent in range(self._tuning.max_splits.bit_length()):
            self._decode(q, torch.zeros_like(q), kind, buffers, plan, 1 << exponent)
        if kind.window is None:
            size = shared_size(kind, 1, self._tuning)
            plan.shared[spec] = make_work(size, None, self._runtime)
            self.attend_decode(q, torch.zeros_like(q), spec, layer, kv, plan)

    def _empty_plan(self, kind: AttentionSpec, device: torch.device) -> TritonPlan:
        """Two tokens of one row of length 0: nothing is stored, read or written."""
        ints = torch.zeros(4, dtype=torch.int32, device=device)
        longs = torch.zeros(2, dtype=torch.int64, device=device)
        pages = self._max_len // self._page_size
        table = torch.zeros((1, pages), dtype=torch.int32, device=device)
        groups = kind.group + 1
        return TritonPlan(
            num_tokens=2,
            max_len=None,
            decode_rows=0,
            one_token_rows=False,
            covered=False,
            cu_seqlens_q=ints[:2],
            seq_lens=ints[:1],
            slots=longs[:1],
            slot_mapping=(longs - 1,) * groups,
            page_tables=(table,) * groups,
            tile_rows=torch.empty(1, dtype=torch.int32, device=device),
            tile_starts=torch.empty(1, dtype=torch.int32, device=device),
        )

    def _decode(
        self,
        q: Tensor,
        out: Tensor,
        kind: AttentionSpec,
        buffers: tuple[Tensor, Tensor],
        plan: TritonPlan,
        splits: int,
        shared: SharedParts | None = None,
    ) -> None:
        config = self._tuning.decode(kind.head_dim, q.element_size())
        counters = self._counters if self._tuning.fused_merge and splits > 1 else None
        decode_attention(q, *buffers, out, kind, plan, splits, config, counters, shared)

    def _share(self, plan: TritonPlan, inputs: StepInputs) -> TritonPlan:
        """Let a new plan read the prefixes of the step's groups once."""
        groups = inputs.host.prefix_groups
        if groups is not None:
            for index, kind in enumerate(self._specs):
                if kind.window is None:
                    size = shared_size(kind, plan.decode_rows, self._tuning)
                    plan.shared[index] = make_work(size, groups, self._runtime)
        return plan

    def _refill(self, plan: TritonPlan, inputs: StepInputs) -> TritonPlan:
        """Put a step into the memory of a plan that holds for it."""
        for work in plan.shared.values():
            refill_work(work, inputs.host.prefix_groups, self._runtime)
        return refill_plan(plan, inputs)

    def _shared(
        self, q: Tensor, spec: int, buffers: tuple[Tensor, Tensor], plan: TritonPlan
    ) -> SharedParts | None:
        """What decode rows see of the prefixes that they share; None where they share none."""
        work, kind = plan.shared.get(spec), self._specs[spec]
        if work is None:
            return None
        config = self._tuning.shared(kind.head_dim, q.element_size())
        return shared_attention(q, *buffers, kind, plan, work, config)


def _zeros(kind: AttentionSpec, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2, num_heads, head_dim), to warm up with."""
    return torch.zeros((2, kind.num_heads, kind.head_dim), dtype=dtype, device=device)
