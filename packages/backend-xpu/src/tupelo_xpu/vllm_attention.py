"""vllm-xpu-kernels' attention over pages, in SYCL: decode rows, prompts, chunks and both mixed.

Its op is called itself, not its function of Python, which answers with a slow reference where no
kernel was compiled for a size: here that is an error, which the first trial meets, and core's
kernels serve.
"""

from typing import Any

import torch
from torch import Tensor

from tupelo.backend.rows import RowAttention, RowPlan
from tupelo.specs import AttentionSpec
from tupelo_xpu.vllm_calls import load

DTYPES = (torch.bfloat16, torch.float16)
PAGE_STEP = 16
"""Its page sizes are multiples of this."""


def why_not(page_size: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> str:
    """Why neither library serves pages of this size or these types; "" if they do."""
    if dtype not in DTYPES or kv_dtype is not dtype:
        return f"it computes in 16 bits, not {dtype} over {kv_dtype}"
    if page_size % PAGE_STEP:
        return f"pages of {page_size} tokens: it needs multiples of {PAGE_STEP}"
    return ""


class VllmAttention(RowAttention):
    """``RowAttention`` by the library.

    Raises:
        LibraryError: it cannot be used here.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._attend = load("varlen_fwd")
        self._store = load("reshape_and_cache_flash")
        self._one = torch.ones(1, dtype=torch.float32, device=self._device)

    def store(self, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], places: Tensor) -> None:
        """As ``RowAttention.store``; it reads rows whose heads lie together."""
        self._store(
            key=k.contiguous(),
            value=v.contiguous(),
            key_cache=cache[0],
            value_cache=cache[1],
            slot_mapping=places,
            kv_cache_dtype="auto",
            k_scale=self._one,
            v_scale=self._one,
        )

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
            q=q.contiguous(),
            k=cache[0],
            v=cache[1],
            out=out,
            cu_seqlens_q=plan.cu_seqlens,
            cu_seqlens_k=plan.cu_keys,
            seqused_k=plan.lens,
            leftpad_k=None,
            block_table=plan.tables[kind.group],
            alibi_slopes=None,
            max_seqlen_q=plan.max_queries,
            max_seqlen_k=plan.max_keys,
            p_dropout=0.0,
            q_scale=None,
            k_scale=None,
            v_scale=None,
            softmax_scale=kind.scale,
            softmax_sink=None if sinks is None else sinks.to(q.dtype),
            zero_tensors=False,
            is_causal=True,
            window_size_left=-1 if kind.window is None else kind.window - 1,
            window_size_right=-1 if kind.window is None else 0,
            softcap=0.0,
            return_softmax=False,
            gen=None,
            num_splits=None,
            mix_batch=plan.mixed,
            splits_per_seq=None,
            work_list=None,
        )
