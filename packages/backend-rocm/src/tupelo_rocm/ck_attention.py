"""AITER's kernels in HIP, Composable Kernel and assembly: decode rows, and prompts that have
nothing stored from before the step. Other prompts are core's in Triton.

AITER builds these with hipcc when they are first called. Used only where a user asks for them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import KVPool, StepInputs
from tupelo.specs import AttentionSpec
from tupelo.triton.attention import TritonAttention
from tupelo.triton.elementary import cdiv
from tupelo.triton.extend import extend_attention
from tupelo.triton.paged import store_kv
from tupelo.triton.plan import TritonPlan, can_refill, make_plan, refill_plan
from tupelo_rocm.aiter_calls import load

DTYPES = (torch.bfloat16, torch.float16)
HEAD_DIMS = (64, 128)
PAGE_SIZES = (16, 32)
LARGEST_GROUP = 16
"""Query heads to a K/V head: rows of one matrix instruction."""

PARTITION = 256
"""Keys of one part of a row, of which its decode kernel merges the results."""


def why_not(kind: AttentionSpec, page_size: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> str:
    """Why it cannot serve layers of this kind; "" if it can."""
    if dtype not in DTYPES or kv_dtype is not dtype:
        return f"it computes in 16 bits, not {dtype} over {kv_dtype}"
    if kind.head_dim not in HEAD_DIMS:
        return f"head_dim {kind.head_dim} is none of {HEAD_DIMS}"
    if page_size not in PAGE_SIZES:
        return f"pages of {page_size} tokens are none of {PAGE_SIZES}"
    if kind.num_heads // kind.num_kv_heads > LARGEST_GROUP:
        return f"it has at most {LARGEST_GROUP} query heads to a K/V head"
    return ""


@dataclass(slots=True)
class CkPlan:
    """One step: core's plan, and of its first ``base.decode_rows`` rows what the decode kernel
    reads.

    Attributes:
        fresh: none of the other rows has anything stored from before the step.
        ends: (rows + 1,) int32 of those rows' tokens, from 0. longest: their most tokens.
        lens: (decode_rows,) int32, at least 1. tables: by page group (decode_rows, max_pages).
    """

    base: TritonPlan
    fresh: bool
    ends: Tensor
    longest: int
    lens: Tensor
    tables: dict[int, Tensor]

    @property
    def slot_mapping(self) -> tuple[Tensor, ...]:
        """As in ``StepInputs``."""
        return self.base.slot_mapping


class CkAttention(TritonAttention):
    """``TritonAttention`` with AITER's kernels where they serve.

    Raises:
        AiterError: they cannot be used here.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups = sorted({kind.group for kind in self._specs})
        self._paged = load("paged_attention_v1")
        self._flash = load("flash_attn_varlen_func")
        self._one = torch.ones(1, dtype=torch.float32, device=self._runtime.device)

    def plan(self, inputs: StepInputs, out: Any = None) -> Any:
        """As ``AttentionBackend.plan``; only plans of decode buckets are refilled."""
        if out is not None and out.base.one_token_rows and can_refill(out.base, inputs):
            refill_plan(out.base, inputs)
            _fill(out, inputs)
            return out
        base, host = make_plan(inputs), inputs.host
        if base.max_len is None and not base.one_token_rows:
            # Rows of a bucket may have no token: its decode kernel would read one all the same.
            return CkPlan(base, False, base.cu_seqlens_q, 0, base.seq_lens[:0], {})
        rows = base.decode_rows
        counts = np.diff(host.cu_seqlens_q[rows:])
        device = inputs.positions.device
        plan = CkPlan(
            base=base,
            fresh=len(counts) > 0 and bool((host.seq_lens[rows:] == counts).all()),
            ends=inputs.cu_seqlens_q[rows:] - inputs.cu_seqlens_q[rows],
            longest=int(counts.max(initial=0)),
            lens=torch.empty(rows, dtype=torch.int32, device=device),
            tables={
                group: torch.empty(
                    (rows, inputs.page_tables[group].shape[1]), dtype=torch.int32, device=device
                )
                for group in self._groups
            },
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
        plan: Any,
        sinks: Tensor | None = None,
    ) -> Tensor:
        assert sinks is None, "sinks are not declared"
        k_pool, v_pool = kv.buffers(layer)
        store_kv(k, v, k_pool, v_pool, plan.slot_mapping[self._specs[spec].group])
        return self.attend(q, spec, layer, kv, plan, (k, v))

    def attend(
        self,
        q: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Any,
        new: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """``forward`` of tokens whose K/V lie in the pool already.

        Args:
            new: the tokens' k and v, which a plan that is ``fresh`` needs.
        """
        base, kind = plan.base, self._specs[spec]
        if not plan.tables:
            return super().attend(q, spec, layer, kv, base)
        make = torch.empty if base.covered else torch.zeros
        out = make(q.shape, dtype=q.dtype, device=q.device)
        rows = base.decode_rows
        if rows:
            self._decode_rows(q[:rows], out[:rows], kind, kv.buffers(layer), plan)
        if plan.fresh:
            assert new is not None
            end = base.num_tokens
            self._fresh(q[rows:end], new[0][rows:end], new[1][rows:end], out[rows:end], kind, plan)
        elif base.num_tiles:
            sizes = self._tuning.extend(kind.head_dim, q.element_size())
            extend_attention(q, *kv.buffers(layer), out, kind, base, sizes)
        return out

    def _decode_rows(
        self,
        q: Tensor,
        out: Tensor,
        kind: AttentionSpec,
        buffers: tuple[Tensor, Tensor],
        plan: CkPlan,
    ) -> None:
        """Decode rows, each of one token, in the order of the tokens."""
        longest = plan.base.max_len or self._max_len
        parts = len(q) * kind.num_heads * cdiv(longest, PARTITION)
        # Partial results in q's type, and of each the sum and the largest logit in float32.
        num_bytes = parts * (kind.head_dim * q.element_size() + 8)
        self._paged(
            out=out,
            workspace_buffer=torch.empty(num_bytes, dtype=torch.uint8, device=q.device),
            query=q.contiguous(),
            key_cache=buffers[0],
            value_cache=buffers[1],
            scale=kind.scale,
            block_tables=plan.tables[kind.group],
            cu_query_lens=None,
            context_lens=plan.lens,
            max_context_len=longest,
            alibi_slopes=None,
            kv_cache_dtype="auto",
            kv_cache_layout="NHD",
            logits_soft_cap=kind.soft_cap or 0.0,
            k_scale=self._one,
            v_scale=self._one,
            fp8_out_scale=None,
            partition_size=PARTITION,
            sliding_window=kind.window or 0,
        )

    def _fresh(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, kind: AttentionSpec, plan: CkPlan
    ) -> None:
        """Whole prompts."""
        seen = self._flash(
            q=q,
            k=k,
            v=v,
            cu_seqlens_q=plan.ends,
            cu_seqlens_k=plan.ends,
            max_seqlen_q=plan.longest,
            max_seqlen_k=plan.longest,
            softmax_scale=kind.scale,
            logits_soft_cap=kind.soft_cap or 0.0,
            causal=True,
            window_size=(-1 if kind.window is None else kind.window - 1, 0),
        )
        out.copy_(seen)


def _fill(plan: CkPlan, inputs: StepInputs) -> None:
    """Put a step's decode rows into a plan's memory, in stream order."""
    rows = plan.base.decode_rows
    torch.clamp(inputs.seq_lens[:rows], min=1, out=plan.lens)
    for group, table in plan.tables.items():
        torch.index_select(inputs.page_tables[group], 0, inputs.slots[:rows], out=table)
        table.clamp_(min=0)  # pages behind every window may be named -1
