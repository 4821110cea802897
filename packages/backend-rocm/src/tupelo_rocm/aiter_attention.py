"""AITER's unified attention, in Triton: decode rows, prompts and chunks of them in one launch."""

from typing import Any

import torch
from torch import Tensor

from tupelo.backend import KVPool
from tupelo.backend.rows import RowAttention, RowPlan, row_table
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


class AiterAttention(RowAttention):
    """``RowAttention`` by AITER's one kernel.

    Raises:
        AiterError: it cannot be used here.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._attend = load("unified_attention")

    def bound(self, num_keys: int) -> int:
        """As ``RowAttention.bound``: its launcher chooses kernels by it."""
        return power_of_two(num_keys)

    def store(self, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], places: Tensor) -> None:
        """As ``RowAttention.store``."""
        store_kv(k, v, *cache, places)

    def launch(
        self,
        q: Tensor,
        out: Tensor,
        kind: AttentionSpec,
        cache: tuple[Tensor, Tensor],
        plan: RowPlan,
        sinks: Tensor | None,
    ) -> None:
        """As ``RowAttention.launch``."""
        self._attend(
            q=q,
            k=cache[0],
            v=cache[1],
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

    def warmup(self, spec: int, layer: int, kv: KVPool, dtype: torch.dtype) -> None:
        """Build its kernels for steps of usual sizes, on rows of one token in page 0."""
        kind, cache = self._specs[spec], kv.buffers(layer)
        device = cache[0].device
        sinks = torch.zeros(kind.num_heads, device=device) if kind.sinks else None
        width = self._max_len // cache[0].shape[1]
        for rows in WARM_ROWS:
            q = torch.zeros((rows, kind.num_heads, kind.head_dim), dtype=dtype, device=device)
            for queries in WARM_QUERIES:
                for keys in WARM_KEYS:
                    plan = RowPlan(
                        decodes=queries == 1,
                        mixed=False,
                        num_tokens=rows,
                        max_queries=queries,
                        max_keys=keys,
                        cu_seqlens=self.ends(rows),
                        lens=torch.ones(rows, dtype=torch.int32, device=device),
                        cu_keys=self.ends(rows),
                        tables={kind.group: row_table(rows, width, device)},
                        slot_mapping=(),
                    )
                    self.launch(q, torch.empty_like(q), kind, cache, plan, sinks)
