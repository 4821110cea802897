"""Attention and the norm by intel-extension-for-pytorch, where a user names it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tupelo.backend.rows import RowAttention, RowPlan
from tupelo.ops import Kernel, Tier
from tupelo.specs import AttentionSpec
from tupelo_xpu.ipex_calls import load
from tupelo_xpu.vllm_calls import LibraryError
from tupelo_xpu.vllm_ops import supports


def ipex_kernels() -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """The ops that it has here, and why it lacks others."""
    try:
        norm = load("rms_norm")
    except LibraryError as error:
        return (), (f"rms_norm: {error}",)
    kernel = Kernel(
        op="rms_norm", name="ipex_rms_norm", fn=_rms_norm(norm), tier=Tier.VENDOR, supports=supports
    )
    return (kernel,), ()


class IpexAttention(RowAttention):
    """``RowAttention`` by the library.

    Raises:
        LibraryError: it cannot be used here.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._attend = load("flash_attn_varlen_func")
        self._store = load("reshape_and_cache_flash")

    def store(self, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], places: Tensor) -> None:
        """As ``RowAttention.store``."""
        self._store(
            key=k.contiguous(),
            value=v.contiguous(),
            key_cache=cache[0],
            value_cache=cache[1],
            slot_mapping=places,
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
        assert sinks is None, "sinks are not declared"
        self._attend(
            output=out,
            query=q.contiguous(),
            key_cache=cache[0],
            value_cache=cache[1],
            cu_seqlens_q=plan.cu_seqlens,
            cu_seqlens_kv=plan.cu_keys,
            max_seqlen_q=plan.max_queries,
            max_seqlen_kv=plan.max_keys,
            scale=kind.scale,
            is_cusal=True,
            block_tables=plan.tables[kind.group],
            alibi_slopes=None,
            window_size_left=-1 if kind.window is None else kind.window - 1,
            window_size_right=-1 if kind.window is None else 0,
            softcap=-1.0,
        )


def _rms_norm(norm: Callable[..., Any]) -> Callable[..., Any]:
    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if not x.numel():
            return torch.empty(x.shape, dtype=x.dtype, device=x.device)
        out: Tensor = norm(hidden_states=x.contiguous(), weight=weight, eps=eps)
        return out

    return rms_norm
