"""Attention over a ``TorchKVPool`` in portable kernels: the contract's ``AttentionBackend``."""

from collections.abc import Sequence

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
from tupelo.triton.plan import TritonPlan, can_refill, make_plan, refill_plan
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
    ) -> Tensor:
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
        kind, tuning = self._specs[spec], self._tuning
        k_cache, v_cache = kv.buffers(layer)
        make = torch.empty if plan.covered else torch.zeros
        out = make(q.shape, dtype=q.dtype, device=q.device)
        if plan.decode_rows:
            splits = self.splits(kind, plan)
            config = tuning.decode(kind.head_dim, q.element_size())
            counters = self._counters if tuning.fused_merge and splits > 1 else None
            decode_attention(q, k_cache, v_cache, out, kind, plan, splits, config, counters)
        if plan.num_tiles:
            sizes = tuning.extend(kind.head_dim, q.element_size())
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
