"""Attention over paged K/V on the native kernels: decode, prefill chunks and mixed batches.

A plan is made once a step and kind of attention; ``PagedAttention.forward`` then runs once a layer.
A row's result is bit-identical whatever else is in the batch, however its prompt was cut into
chunks, and for any number of threads.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from tupelo.specs import AttentionSpec
from tupelo_cpu.elementwise import dense
from tupelo_cpu.native.bindings import AttentionCallStruct, NativeLibrary


@dataclass(slots=True)
class PagedPlan:
    """One step's metadata for layers of one ``AttentionSpec``.

    Attributes:
        call: the record that the kernel reads; ``address`` is where it lies.
        tensors: what ``call`` points into, kept alive.
        strides: of the cache that ``call`` was last filled for: (page, token, head), in elements.
    """

    call: AttentionCallStruct
    address: int
    tensors: tuple[Tensor, ...]
    strides: tuple[int, ...] = ()


def supports_attention(spec: AttentionSpec, dtype: str, kv_dtype: str) -> str | None:
    """None if the kernels can serve a kind of attention, else the reason why not."""
    if dtype != "float32" or kv_dtype != "float32":
        return f"computes and stores float32, not {dtype} over {kv_dtype}"
    if spec.num_heads % spec.num_kv_heads != 0:
        return f"{spec.num_heads} heads are no multiple of {spec.num_kv_heads} K/V heads"
    return None


class PagedAttention:
    """Causal attention of query rows over their pages. Thread-safe; holds no state.

    ``out = softmax(scale * q k^T [soft-capped] [masked]) v`` in float32. Source: Vaswani et al.,
    2017; the order of the sums is described in ``attention.cpp``.
    """

    def __init__(self, library: NativeLibrary) -> None:
        self._paged_attention = library.paged_attention

    def plan(
        self,
        spec: AttentionSpec,
        page_size: int,
        cu_seqlens_q: Tensor,
        seq_lens: Tensor,
        page_tables: Tensor,
        slots: Tensor,
        slot_mapping: Tensor,
    ) -> PagedPlan:
        """Metadata of one step.

        Args:
            spec: the kind of attention.
            page_size: tokens a page, 1 or more.
            cu_seqlens_q: (num_rows + 1,) int32, token offsets of the rows; a row may be empty.
            seq_lens: (num_rows,) int32, exact K/V length of each row after the step.
            page_tables: (num_slots, max_pages) int32. Entries past a row's pages are never read.
            slots: (num_rows,) int64, the table of each row.
            slot_mapping: (num_tokens,) int64, ``page * page_size + offset``; -1: not stored.
        """
        tables = page_tables.to(torch.int32).contiguous()
        tensors = (
            cu_seqlens_q.to(torch.int32).contiguous(),
            seq_lens.to(torch.int32).contiguous(),
            tables,
            slots.to(torch.int64).contiguous(),
            slot_mapping.to(torch.int64).contiguous(),
        )
        call = AttentionCallStruct(
            *(t.data_ptr() for t in tensors),
            num_rows=seq_lens.shape[0],
            num_tokens=slot_mapping.shape[0],
            max_pages=tables.shape[1],
            page_size=page_size,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            window=spec.window or 0,
            chunked=spec.chunked,
            scale=spec.scale,
            soft_cap=spec.soft_cap or 0.0,
        )
        return PagedPlan(call, ctypes.addressof(call), tensors)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        plan: PagedPlan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Store the K/V of all rows, then attend.

        Args:
            q: (num_tokens, num_heads, head_dim) float32.
            k, v: (num_tokens, num_kv_heads, head_dim) float32, the new tokens'.
            k_cache, v_cache: (num_pages, page_size, num_kv_heads, head_dim) float32, written in
                place. Any strides, equal in both, with the last one 1: so a pool laid out as
                (num_pages, num_kv_heads, page_size, head_dim) passes a transposed view.
            sinks: (num_heads,) one more logit a head, or None.

        Returns:
            (num_tokens, num_heads, head_dim); zeros for tokens past ``cu_seqlens_q[-1]``.
        """
        strides = k_cache.stride()
        if strides != plan.strides:
            assert strides == v_cache.stride()
            assert strides[3] == 1
            assert k_cache.dtype is v_cache.dtype is torch.float32
            plan.strides = strides
            plan.call.page_stride, plan.call.token_stride, plan.call.head_stride = strides[:3]
        q, k, v = dense(q), dense(k), dense(v)
        sinks = dense(sinks) if sinks is not None else None
        out = torch.empty_like(q)
        self._paged_attention(
            plan.address,
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            k_cache.data_ptr(),
            v_cache.data_ptr(),
            sinks.data_ptr() if sinks is not None else None,
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out
