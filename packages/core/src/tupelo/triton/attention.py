"""Attention over a ``TorchKVPool`` in portable kernels: the contract's ``AttentionBackend``."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tupelo.backend.attention import AttentionBackend
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.runtime import Runtime
from tupelo.backend.step import StepInputs
from tupelo.errors import ContractError
from tupelo.specs import AttentionSpec
from tupelo.triton.decode import decode_attention
from tupelo.triton.elementary import cdiv
from tupelo.triton.extend import extend_attention
from tupelo.triton.paged import store_kv
from tupelo.triton.plan import TritonPlan, can_refill, cut_tiles, make_plan, refill_plan
from tupelo.triton.tuning import AttentionTuning


class TritonAttention(AttentionBackend):
    """Decode rows split over their keys, other rows in causal tiles; both in one step where mixed.

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
        self._tuning = tuning or AttentionTuning()
        # Where splits are more than one, rows times K/V heads are fewer than target_programs.
        count = self._tuning.target_programs
        self._counters = torch.zeros(count, dtype=torch.int32, device=runtime.device)

    def plan(self, inputs: StepInputs, out: TritonPlan | None = None) -> TritonPlan:
        """As in the contract; a plan of a bucket that only decodes can't be refilled with a step
        that extends too, and is answered with a new plan."""
        if out is not None and can_refill(out, inputs):
            return refill_plan(out, inputs)
        return make_plan(inputs)

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
            self._decode(q, out, kind, (k_cache, v_cache), plan, self.splits(kind, plan))
        if plan.num_tiles:
            sizes = self._tuning.extend(kind.head_dim, q.element_size())
            extend_attention(q, k_cache, v_cache, out, kind, plan, sizes)
        return out

    def splits(self, kind: AttentionSpec, plan: TritonPlan) -> int:
        """Splits of a decode row's keys: enough programs for the device, a power of two.

        It depends on the number of rows and, outside of buckets, on the longest row.
        """
        tuning = self._tuning
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
        kind = self._specs[spec]
        k_cache, v_cache = kv.buffers(layer)
        shape = (2, kind.num_heads, kind.head_dim)
        q = torch.zeros(shape, dtype=dtype, device=k_cache.device)
        new = q[:, : kind.num_kv_heads].contiguous()
        extend = self._empty_plan(kind, k_cache.device)
        store_kv(new, new, k_cache, v_cache, extend.slot_mapping[kind.group])
        cut_tiles(extend)
        sizes = self._tuning.extend(kind.head_dim, q.element_size())
        extend_attention(q, k_cache, v_cache, torch.zeros_like(q), kind, extend, sizes)
        for one_token_rows in (False, True):
            plan = replace(extend, decode_rows=1, one_token_rows=one_token_rows)
            for exponent in range(self._tuning.max_splits.bit_length()):
                self._decode(q, torch.zeros_like(q), kind, kv.buffers(layer), plan, 1 << exponent)

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
    ) -> None:
        config = self._tuning.decode(kind.head_dim, q.element_size())
        counters = self._counters if self._tuning.fused_merge and splits > 1 else None
        decode_attention(q, *buffers, out, kind, plan, splits, config, counters)
