"""Attention over pages: the vendor-facing protocol and the reference that defines it.

The reference makes no choice on a value of a tensor: it is a function of arrays, so it runs under
static shapes and functional storage too. It is itself checked against a dense, unpaged computation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tupelo.backend.kv_pool import KVPool
from tupelo.backend.ragged import attend_ragged
from tupelo.backend.runtime import Runtime
from tupelo.backend.step import StepInputs
from tupelo.specs import AttentionSpec

Plan = Any
"""Whatever a backend prepares once a step; opaque to core."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSplit:
    """How a layer's packed QKV product becomes q, k and v: the op ``norm_rope_qkv``.

    Attributes:
        fn: the kernel that was chosen for it. The others are the op's arguments of these names.
    """

    fn: Callable[..., tuple[Tensor, Tensor, Tensor]]
    cos_sin: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    eps: float
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def __call__(self, qkv: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of ``qkv`` (num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)."""
        norms = (self.q_norm, self.k_norm, self.eps)
        sizes = (self.num_heads, self.num_kv_heads, self.head_dim)
        return self.fn(qkv, positions, self.cos_sin, *norms, *sizes)


@runtime_checkable
class AttentionBackend(Protocol):
    """Attention of a model's layers over a paged K/V pool.

    Built as ``attention(specs, page_size, max_pages, runtime, in_place)``: the model's distinct
    specs, tokens a page, the longest page table, the device, and whether K/V buffers may be
    written in place.
    """

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        """Metadata of a step, once, for all specs.

        With ``out``, an earlier plan of the same bucket: refill its buffers in stream order and
        return it, so that a graph captured with it sees this step. A plan that cannot be refilled
        is answered with a new one; a runner that captures then runs such steps eagerly.
        """
        ...

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, spec: int, layer: int, kv: KVPool, plan: Plan
    ) -> Tensor:
        """Store the K/V of all rows, then attend causally over each row's pages.

        Prefill, decode and mixed batches alike. Every row's K/V are stored before any row reads, so
        rows of one step may share pages that the same step fills.

        Args:
            q: (num_tokens, num_heads, head_dim).
            k, v: (num_tokens, num_kv_heads, head_dim), the new tokens'.
            spec: index into the specs that the backend was built with.
            layer: model layer, for the pool.
            plan: of this step.

        Returns:
            (num_tokens, num_heads, head_dim), dtype of ``q``; padding tokens hold anything finite.
        """
        ...

    def forward_qkv(
        self,
        qkv: Tensor,
        positions: Tensor,
        split: HeadSplit,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
    ) -> Tensor:
        """``forward`` of what ``split`` makes of ``qkv``: what layers call.

        This default does the two in turn. A backend that can norms, rotates and stores K/V in one
        kernel, and never writes them elsewhere.
        """
        q, k, v = split(qkv, positions)
        return self.forward(q, k, v, spec, layer, kv, plan)

    def forward_ragged(
        self, q: Tensor, k: Tensor, v: Tensor, kind: AttentionSpec, inputs: StepInputs, plan: Plan
    ) -> Tensor:
        """Attention among the tokens of each row of the step, in both directions: of encoders.

        Nothing is stored and nothing older is read. ``kind`` (not causal) is none of the specs that
        the backend was built with, since it has no page group. This default takes a row at a
        time where the step is not padded, and masks where it is.

        Args:
            q: (num_tokens, num_heads, head_dim).
            k, v: (num_tokens, num_kv_heads, head_dim).
            inputs: of this step; ``host.cu_seqlens_q`` is always exact.
            plan: of this step, for backends that keep something of their own in it.

        Returns:
            (num_tokens, num_heads, head_dim), dtype of ``q``; padding tokens hold anything finite.
        """
        return attend_ragged(q, k, v, kind, inputs)


@dataclass(slots=True)
class _ReferencePlan:
    """Per page group: where each token's K/V go and which stored tokens each token may see.

    ``store``: (T,) pool indices, scratch for padding. ``gather``: (T, L) pool indices of the row's
    tokens. ``distance``: (T, L) query position minus key position; visible means 0 <= distance <
    window.
    """

    store: tuple[Tensor, ...]
    gather: tuple[Tensor, ...]
    distance: Tensor


def _refill(out: _ReferencePlan, made: _ReferencePlan) -> _ReferencePlan:
    """``out`` with the contents of ``made`` where every size is the same, else ``made``."""
    old = (*out.store, *out.gather, out.distance)
    new = (*made.store, *made.gather, made.distance)
    if any(a.shape != b.shape for a, b in zip(old, new, strict=True)):
        return made
    for a, b in zip(old, new, strict=True):
        a.copy_(b)
    return out


class ReferenceAttention(AttentionBackend):
    """Attention by definition, in float32, in slices of ``slice_tokens`` query tokens.

    ``out = softmax(scale * q k^T [soft-capped] [masked]) v``. Source: Vaswani et al., 2017.
    """

    slice_tokens = 64

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
        self._max_pages = max_pages
        self._in_place = in_place
        self._offsets = torch.arange(page_size, device=runtime.device)

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        # Pages of the longest row: a host integer, and the table's full width under static buckets.
        longest = int(inputs.host.seq_lens.max(initial=1))
        pages = (
            -(-longest // self._page_size) if inputs.host.bucket.tokens == 0 else self._max_pages
        )
        pages = pages if inputs.page_tables else 0  # a model that stores nothing
        stores, gathers = [], []
        for mapping, table in zip(inputs.slot_mapping, inputs.page_tables, strict=True):
            rows = table[inputs.slots, :pages].long().clamp(min=0)
            flat = (rows.unsqueeze(-1) * self._page_size + self._offsets).flatten(1)
            gathers.append(flat[inputs.token_rows])
            stores.append(mapping)
        keys = torch.arange(pages * self._page_size, device=inputs.positions.device)
        distance = inputs.positions.unsqueeze(1) - keys
        made = _ReferencePlan(tuple(stores), tuple(gathers), distance)
        return made if out is None else _refill(out, made)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, spec: int, layer: int, kv: KVPool, plan: Plan
    ) -> Tensor:
        kind = self._specs[spec]
        k_pool, v_pool = (t.flatten(0, 1) for t in kv.buffers(layer))
        scratch = k_pool.shape[0] - 1
        store = torch.where(plan.store[kind.group] < 0, scratch, plan.store[kind.group])
        k_pool = self._write(k_pool, store, k)
        v_pool = self._write(v_pool, store, v)
        if not self._in_place:
            shape = kv.buffers(layer)[0].shape
            kv.replace(layer, (k_pool.view(shape), v_pool.view(shape)))
        slices = [
            self._attend(q[s], k_pool, v_pool, plan.gather[kind.group][s], plan.distance[s], kind)
            for s in _slices(q.shape[0], self.slice_tokens)
        ]
        return torch.cat(slices) if slices else q

    def _write(self, pool: Tensor, store: Tensor, new: Tensor) -> Tensor:
        new = new.to(pool.dtype)
        return pool.index_copy_(0, store, new) if self._in_place else pool.index_copy(0, store, new)

    def _attend(
        self,
        q: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
        gather: Tensor,
        distance: Tensor,
        kind: AttentionSpec,
    ) -> Tensor:
        groups = kind.num_heads // kind.num_kv_heads
        heads = q.float().view(q.shape[0], kind.num_kv_heads, groups, kind.head_dim)
        scores = torch.einsum("tngd,tlnd->tngl", heads, k_pool[gather].float()) * kind.scale
        if kind.soft_cap is not None:
            scores = kind.soft_cap * torch.tanh(scores / kind.soft_cap)
        visible = distance >= 0
        if kind.window is not None:
            visible = visible & (distance < kind.window)
        scores = scores.masked_fill(~visible[:, None, None, :], float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        values = torch.einsum("tngl,tlnd->tngd", weights, v_pool[gather].float())
        return values.flatten(1, 2).to(q.dtype)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, total, size)]
