"""Attention over pages: the vendor-facing protocol and the reference that defines it.

The reference makes no choice on a value of a tensor: it is a function of arrays, so it runs under
static shapes and functional storage too. It is itself checked against a dense, unpaged computation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tupelo.backend.kv_pool import Buffers, KVPool
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
        sinks: (num_heads,) of the layer, where its spec has some: not the split's business, but
            handed on to ``forward``.
    """

    fn: Callable[..., tuple[Tensor, Tensor, Tensor]]
    cos_sin: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    eps: float
    num_heads: int
    num_kv_heads: int
    head_dim: int
    sinks: Tensor | None = None

    def __call__(self, qkv: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of ``qkv`` (num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)."""
        norms = (self.q_norm, self.k_norm, self.eps)
        sizes = (self.num_heads, self.num_kv_heads, self.head_dim)
        return self.fn(qkv, positions, self.cos_sin, *norms, *sizes)


@dataclass(frozen=True, slots=True)
class Latent:
    """A layer's products between heads and the compressed K/V, for this rank's heads.

    Attributes:
        up_k: (num_heads, nope_dim, rank): a head's keys from the latent, positions apart.
        up_v: (num_heads, value_dim, rank): its values.
    """

    up_k: Tensor
    up_v: Tensor


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
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Store the K/V of all rows, then attend causally over each row's pages.

        Prefill, decode and mixed batches alike. Every row's K/V are stored before any row reads, so
        rows of one step may share pages that the same step fills.

        Args:
            q: (num_tokens, num_heads, head_dim).
            k, v: (num_tokens, num_kv_heads, head_dim), the new tokens'. Where the spec has a
                ``value_dim``, ``v`` is that part of ``k`` and stored with it.
            spec: index into the specs that the backend was built with.
            layer: model layer, for the pool.
            plan: of this step.
            sinks: (num_heads,) float32, given where the spec has ``sinks``.

        Returns:
            (num_tokens, num_heads, head_dim), or ``value_dim`` wide, dtype of ``q``; padding
            tokens hold anything finite.
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
        if split.sinks is None:
            return self.forward(q, k, v, spec, layer, kv, plan)
        return self.forward(q, k, v, spec, layer, kv, plan, split.sinks)

    def forward_mla(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        weights: Latent,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
    ) -> Tensor:
        """Latent attention: ``forward`` where only ``(latent, k_rope)`` is stored for each token.

        A head's key is ``(up_k latent, k_rope)``, its value ``up_v latent``. This default never
        makes them: it takes ``up_k`` into the query and ``up_v`` out of the sum ("absorbed"), so
        all heads read one stored head, whose value is the first part of its key. A backend may
        expand K and V of prompts instead, which costs fewer operations there.

        Args:
            q_nope: (num_tokens, num_heads, nope_dim).
            q_rope: (num_tokens, num_heads, rope_dim), rotated.
            latent: (num_tokens, rank), normed. k_rope: (num_tokens, rope_dim), rotated.
            spec: of one K/V head of ``rank + rope_dim`` elements with ``value_dim`` = rank.

        Returns:
            (num_tokens, num_heads, value_dim of the heads).

        Source: DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1.
        """
        absorbed = torch.einsum("thn,hnr->thr", q_nope, weights.up_k)
        k = torch.cat((latent, k_rope), dim=-1).unsqueeze(1)
        q = torch.cat((absorbed, q_rope), dim=-1)
        seen = self.forward(q, k, latent.unsqueeze(1), spec, layer, kv, plan)
        return torch.einsum("thr,hvr->thv", seen, weights.up_v)

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
    window, and in chunks no more than the query's own distance from where its span begins.
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

    ``out = softmax(scale * q k^T [soft-capped] [masked]) v``. Source: Vaswani et al., 2017; sinks:
    Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023.
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
        pages = self._max_pages  # under static buckets; else as many as the longest row has
        if inputs.host.bucket.tokens == 0:
            pages = -(-int(inputs.host.seq_lens.max(initial=1)) // self._page_size)
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
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        kind = self._specs[spec]
        k_pool, v_pool = self.store(k, v, kind, layer, kv, plan)
        keys = k_pool.view(-1, kind.num_kv_heads, kind.head_dim)
        values = v_pool.reshape(len(keys), kind.num_kv_heads, -1)
        gather = plan.gather[kind.group]
        slices = [
            self._attend(q[s], keys, values, gather[s], plan.distance[s], kind, sinks)
            for s in _slices(q.shape[0], self.slice_tokens)
        ]
        return torch.cat(slices) if slices else q[..., : kind.value_dim]

    def store(
        self, k: Tensor, v: Tensor, kind: AttentionSpec, layer: int, kv: KVPool, plan: Any
    ) -> Buffers:
        """Put the K/V of new tokens into the pool, or give it a successor that holds them.

        Args:
            kv: whose pages hold tokens first, then heads and their elements, on whatever axes.
            plan: whose ``store`` says for each page group where tokens go, -1 for padding.

        Returns:
            The layer's buffers, with them.
        """
        mapping, old = plan.store[kind.group], kv.buffers(layer)
        scratch = old[0].shape[0] * old[0].shape[1] - 1
        place = torch.where(mapping < 0, scratch, mapping)
        held = old[:1] if kind.value_dim is not None else old  # values are in the keys
        made = [self._write(t, place, new) for t, new in zip(held, (k, v), strict=False)]
        if not self._in_place:
            kv.replace(layer, (made[0], made[-1][..., : kind.value_dim]))
        return kv.buffers(layer)

    def _write(self, pool: Tensor, place: Tensor, new: Tensor) -> Tensor:
        rows = new.to(pool.dtype).reshape(len(new), *pool.shape[2:])
        flat = pool.flatten(0, 1)
        if self._in_place:
            flat.index_copy_(0, place, rows)
            return pool
        return flat.index_copy(0, place, rows).view(pool.shape)

    def _attend(
        self,
        q: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
        gather: Tensor,
        distance: Tensor,
        kind: AttentionSpec,
        sinks: Tensor | None = None,
    ) -> Tensor:
        groups = kind.num_heads // kind.num_kv_heads
        heads = q.float().view(q.shape[0], kind.num_kv_heads, groups, kind.head_dim)
        scores = torch.einsum("tngd,tlnd->tngl", heads, k_pool[gather].float()) * kind.scale
        if kind.soft_cap is not None:
            scores = kind.soft_cap * torch.tanh(scores / kind.soft_cap)
        visible = distance >= 0
        if kind.window is not None:
            visible = visible & (distance < kind.window)
            if kind.chunked:  # key 0 is as far away as the query's position
                visible = visible & (distance <= distance[:, :1] % kind.window)
        scores = scores.masked_fill(~visible[:, None, None, :], float("-inf"))
        weights = _softmax(scores, sinks)
        values = torch.einsum("tngl,tlnd->tngd", weights, v_pool[gather].float())
        return values.flatten(1, 2).to(q.dtype)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the last axis of (T, num_kv_heads, groups, L), beside one more logit a head."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    extra = sinks.float().view(1, *scores.shape[1:3], 1).expand(*scores.shape[:3], 1)
    return torch.softmax(torch.cat((scores, extra), dim=-1), dim=-1)[..., :-1]


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, total, size)]
