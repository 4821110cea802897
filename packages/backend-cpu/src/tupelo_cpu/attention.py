"""Attention on the CPU: the native kernels where they apply, torch's own attention elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.backend import AttentionBackend, KVPool, Runtime, StepInputs
from tupelo.specs import AttentionSpec
from tupelo_cpu.native.bindings import NativeLibrary
from tupelo_cpu.paged_attention import PagedAttention, PagedPlan


class NativeAttention(AttentionBackend):
    """One native call a layer, in float32; anything else goes to ``TorchAttention``."""

    def __init__(
        self,
        library: NativeLibrary,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = True,
    ) -> None:
        self._specs = tuple(specs)
        self._page_size = page_size
        self._paged = PagedAttention(library)
        self._torch = TorchAttention(specs, page_size, max_pages, runtime, in_place)
        self._forward = self._paged.forward

    def plan(self, inputs: StepInputs, out: Any | None = None) -> Any:
        plans = [
            None
            if spec.value_dim is not None
            else self._paged.plan(
                spec,
                self._page_size,
                inputs.cu_seqlens_q,
                inputs.seq_lens,
                inputs.page_tables[spec.group],
                inputs.slots,
                inputs.slot_mapping[spec.group],
            )
            for spec in self._specs
        ]
        return _NativePlan(plans, inputs)

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
        k_cache, v_cache = kv.buffers(layer)
        native = plan.native[spec]
        if q.dtype is torch.float32 and k_cache.dtype is torch.float32 and native is not None:
            return self._forward(q, k, v, k_cache, v_cache, native, sinks)
        plan.rows = plan.rows or self._torch.plan(plan.inputs)
        return self._torch.forward(q, k, v, spec, layer, kv, plan.rows, sinks)


@dataclass(slots=True)
class _NativePlan:
    """The native kernels' metadata, one a spec that they have; ``rows`` is made if torch's
    attention is needed."""

    native: list[PagedPlan | None]
    inputs: StepInputs
    rows: Any = None


@dataclass(slots=True)
class _Rows:
    """Host figures of a step: for each row its tokens, its K/V length and, a group, its pages."""

    bounds: list[tuple[int, int, int]]
    pages: tuple[list[Tensor], ...]
    store: tuple[Tensor, ...]


class TorchAttention(AttentionBackend):
    """``scaled_dot_product_attention``, a row at a time, over the row's pages gathered together.

    For machines without a compiler, and for types that the native kernels do not compute in.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = True,
    ) -> None:
        self._specs = tuple(specs)
        self._page_size = page_size

    def plan(self, inputs: StepInputs, out: Any | None = None) -> Any:
        host = inputs.host
        ends = host.cu_seqlens_q.tolist()
        bounds = list(zip(ends, ends[1:], host.seq_lens.tolist(), strict=False))
        counts = [-(-length // self._page_size) for _, _, length in bounds]
        pages = tuple(
            [
                table[slot, :count].clamp(min=0)
                for slot, count in zip(host.slots.tolist(), counts, strict=True)
            ]
            for table in inputs.page_tables
        )
        return _Rows(bounds, pages, inputs.slot_mapping)

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
        kind = self._specs[spec]
        k_cache, v_cache = kv.buffers(layer)
        store = plan.store[kind.group]
        store = torch.where(store < 0, k_cache.shape[0] * self._page_size - 1, store)
        stored = ((k_cache, k), (v_cache, v))
        for cache, new in stored if kind.value_dim is None else stored[:1]:
            cache.flatten(0, 1).index_copy_(0, store, new.to(cache.dtype))
        out = q.new_zeros((*q.shape[:2], v.shape[2]))
        for row, (start, stop, length) in enumerate(plan.bounds):
            pages = plan.pages[kind.group][row]
            keys, values = (c[pages].flatten(0, 1)[:length].to(q.dtype) for c in (k_cache, v_cache))
            out[start:stop] = _attend(q[start:stop], keys, values, kind, sinks)
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor, kind: AttentionSpec, sinks: Tensor | None) -> Tensor:
    """One row: q (n, num_heads, head_dim) at the end of k, v (length, num_kv_heads, head_dim)."""
    length, n = k.shape[0], q.shape[0]
    distance = torch.arange(length - n, length).unsqueeze(1) - torch.arange(length)
    visible = distance >= 0
    if kind.window is not None:
        visible &= distance < kind.window
        if kind.chunked:
            visible &= distance <= distance[:, :1] % kind.window
    q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    if kind.soft_cap is None and sinks is None:
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, scale=kind.scale, enable_gqa=True
        )
        return out.transpose(0, 1)
    groups = kind.num_heads // kind.num_kv_heads
    k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    scores = (q.float() @ k.float().transpose(1, 2)) * kind.scale
    if kind.soft_cap is not None:
        scores = kind.soft_cap * torch.tanh(scores / kind.soft_cap)
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks.float().view(-1, 1, 1).expand(-1, n, 1)), dim=-1)
    weights = scores.softmax(-1)[..., :length]
    return (weights @ v.float()).to(q.dtype).transpose(0, 1)
