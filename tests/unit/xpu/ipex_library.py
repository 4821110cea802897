"""intel-extension-for-pytorch in torch, by its documentation, with the signatures that it has."""

import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from tests.unit.xpu import library
from torch import Tensor
from torch import library as torch_library

RELEASE = "2.8.0+xpu"

_OPS = torch_library.Library("ipex_stand_in", "FRAGMENT")
_OPS.define(
    "store(Tensor key, Tensor value, Tensor! key_cache, Tensor! value_cache, Tensor places) -> ()"
)
_OPS.define(
    "attend(Tensor! out, Tensor q, Tensor k, Tensor v, Tensor ends, Tensor key_ends, Tensor tables,"
    " float scale, int back) -> ()"
)


def rms_norm(hidden_states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Over the last axis."""
    out = torch.empty_like(hidden_states)
    library.rms_norm(out, hidden_states, weight, eps)
    return out


class PagedAttention:
    """Functions over pages (page, token of it, head, element)."""

    @classmethod
    def reshape_and_cache_flash(
        cls,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        slot_mapping: Tensor,
        kv_cache_dtype: str = "auto",
        k_scale: float = 1.0,
        v_scale: float = 1.0,
    ) -> None:
        """Tokens into pages."""
        torch.ops.ipex_stand_in.store(key, value, key_cache, value_cache, slot_mapping)

    @classmethod
    def flash_attn_varlen_func(
        cls,
        output: Tensor,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_kv: Tensor,
        max_seqlen_q: int,
        max_seqlen_kv: int,
        scale: float,
        is_cusal: bool,
        block_tables: Tensor,
        alibi_slopes: Tensor | None,
        window_size_left: int = -1,
        window_size_right: int = -1,
        kv_cache_dtype: str = "auto",
        k_scale: float = 1.0,
        v_scale: float = 1.0,
        softcap: float = -1.0,
    ) -> None:
        """Each row's tokens over its pages."""
        assert is_cusal
        seen = (output, query, key_cache, value_cache, cu_seqlens_q, cu_seqlens_kv, block_tables)
        torch.ops.ipex_stand_in.attend(*seen, scale, window_size_left)


def _store(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, places: Tensor) -> None:
    one = torch.ones(1)
    library.reshape_and_cache_flash(k, v, k_cache, v_cache, places, "auto", one, one)


def _attend(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    tables: Tensor,
    scale: float,
    back: int,
) -> None:
    lengths = [end - begin for begin, end in pairwise(key_ends.tolist())]
    for row, (begin, end) in enumerate(pairwise(ends.tolist())):
        if end > begin:
            seen = (q[begin:end], k, v, tables[row], lengths[row], scale)
            out[begin:end] = library.attend(*seen, back, None)


def install() -> None:
    """Let it be importable; once a process."""
    _OPS.impl("store", _store, "CPU")
    _OPS.impl("attend", _attend, "CPU")
    for name, content in {
        "": {},
        ".llm": {},
        ".llm.functional": {"rms_norm": rms_norm},
        ".llm.modules": {"PagedAttention": PagedAttention},
    }.items():
        module: Any = ModuleType(f"intel_extension_for_pytorch{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
