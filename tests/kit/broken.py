"""Parts and kernels with one bug each, of the kinds that vendors really make."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.backend import (
    Backend,
    Capabilities,
    EagerRunner,
    Forward,
    HeadSplit,
    KVPool,
    Latent,
    LinearWeight,
    OpCall,
    Plan,
    ReferenceAttention,
    RunnerParts,
    StepInputs,
    Ticket,
    TorchCollectives,
    TorchKVPool,
    TorchRuntime,
    TorchSampler,
)
from tupelo.batch import Batch
from tupelo.ops import OPS
from tupelo.ops.sampling import NEGATIVE
from tupelo.specs import AttentionSpec

BASE = Backend(
    name="base",
    device="cpu",
    capabilities=Capabilities(
        dtypes=("float32",),
        chunked=True,
        sinks=True,
        latent_kv=True,
        same_step_sharing=True,
        plan_needs_host_lens=True,
        prefix_group_tokens=1,
    ),
)
HALF = replace(BASE.capabilities, dtypes=("float32", "float16"))


# Attention


class LaterChunkSeesAhead(ReferenceAttention):
    """In a chunk that is not the first, each query sees one key too many."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        plan = super().plan(inputs, out)
        counts = inputs.cu_seqlens_q.diff()
        later = (counts > 1) & (inputs.seq_lens > counts)
        plan.distance += later[inputs.token_rows].long().unsqueeze(1)
        return plan


class HeadMapTransposed(ReferenceAttention):
    """Query head h reads K/V head ``h % num_kv_heads``."""

    def _attend(
        self, q: Tensor, k_pool: Tensor, v_pool: Tensor, gather: Tensor, distance: Tensor,
        kind: AttentionSpec, sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        groups = kind.num_heads // kind.num_kv_heads
        turned = q.unflatten(1, (groups, kind.num_kv_heads)).transpose(1, 2).flatten(1, 2)
        out = super()._attend(turned, k_pool, v_pool, gather, distance, kind, sinks)
        return out.unflatten(1, (kind.num_kv_heads, groups)).transpose(1, 2).flatten(1, 2)


class SecondPageIgnored(ReferenceAttention):
    """Keys of a row's second page are masked out."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        plan = super().plan(inputs, out)
        second = slice(self._page_size, 2 * self._page_size)
        plan.distance[:, second] = torch.where(plan.distance[:, second] > 0, -1, 0)
        return plan


class SlotWrongAtBoundary(ReferenceAttention):
    """The first token of a page goes one past the last slot of the page before."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        plan = super().plan(inputs, out)
        stores = []
        for store, table in zip(plan.store, inputs.page_tables, strict=True):
            before = (inputs.positions - 1).clamp(min=0) // self._page_size
            page = table[inputs.slots[inputs.token_rows], before].long()
            wrong = (page + 1) * self._page_size
            first = (inputs.positions % self._page_size == 0) & (inputs.positions > 0)
            stores.append(torch.where(first & (store >= 0), wrong, store))
        plan.store = tuple(stores)
        return plan


class PackedKeysAsTheyCame(ReferenceAttention):
    """``forward_qkv`` stores K neither normed nor rotated."""

    def forward_qkv(
        self, qkv: Tensor, positions: Tensor, split: HeadSplit, spec: int, layer: int, kv: KVPool,
        plan: Plan,
    ) -> Tensor:  # fmt: skip
        q, _, v = split(qkv, positions)
        heads = qkv.unflatten(1, (-1, split.head_dim))
        k = heads[:, split.num_heads : split.num_heads + split.num_kv_heads]
        return self.forward(q, k, v, spec, layer, kv, plan)


class SinksDiluted(ReferenceAttention):
    """Every head gets the first head's sink."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, spec: int, layer: int, kv: KVPool, plan: Plan,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        wrong = None if sinks is None else sinks[:1].expand_as(sinks)
        return super().forward(q, k, v, spec, layer, kv, plan, wrong)


class LatentValuesTooLate(ReferenceAttention):
    """Takes the last elements of a stored key for its value."""

    def _attend(
        self, q: Tensor, k_pool: Tensor, v_pool: Tensor, gather: Tensor, distance: Tensor,
        kind: AttentionSpec, sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if kind.value_dim is not None:
            v_pool = k_pool[..., -kind.value_dim :]
        return super()._attend(q, k_pool, v_pool, gather, distance, kind, sinks)


class ExpandedWrongly(ReferenceAttention):
    """``forward_mla`` leaves the rotated part out of the scores."""

    def forward_mla(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, weights: Latent,
        spec: int, layer: int, kv: KVPool, plan: Plan,
    ) -> Tensor:  # fmt: skip
        blank = torch.zeros_like(q_rope)
        return super().forward_mla(q_nope, blank, latent, k_rope, weights, spec, layer, kv, plan)


class StalePlan(ReferenceAttention):
    """``plan(out=)`` refills where to store, but not what to read."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        old = None if out is None else tuple(pages.clone() for pages in out.gather)
        plan = super().plan(inputs, out)
        plan.gather = old or plan.gather
        return plan


class WindowTooWide(ReferenceAttention):
    """A window of w sees w + 1 keys."""

    def __init__(self, specs: Sequence[AttentionSpec], *args: Any) -> None:
        wide = [s if s.window is None else replace(s, window=s.window + 1) for s in specs]
        super().__init__(wide, *args)


class ChunksSlide(ReferenceAttention):
    """Chunked layers see as far back as windowed ones."""

    def __init__(self, specs: Sequence[AttentionSpec], *args: Any) -> None:
        super().__init__([replace(s, chunked=False) for s in specs], *args)


class ScaleForgotten(ReferenceAttention):
    """Scores are not scaled."""

    def __init__(self, specs: Sequence[AttentionSpec], *args: Any) -> None:
        super().__init__([replace(s, scale=1.0) for s in specs], *args)


class RowByRow(ReferenceAttention):
    """Stores and attends one row after another, though it declares same_step_sharing."""

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
        out = q.new_empty((*q.shape[:2], v.shape[2]))
        for token in range(len(q)):
            one = slice(token, token + 1)
            part = replace(
                plan,
                store=tuple(s[one] for s in plan.store),
                gather=tuple(g[one] for g in plan.gather),
                distance=plan.distance[one],
            )
            out[one] = super().forward(q[one], k[one], v[one], spec, layer, kv, part, sinks)
        return out


class PaddingStored(ReferenceAttention):
    """Padding tokens are stored at position 0 of the pool instead of nowhere."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        plan = super().plan(inputs, out)
        plan.store = tuple(s.clamp(min=0) for s in plan.store)
        return plan


# K/V pool


class CopyInToNextPage(TorchKVPool):
    """Copies in to the pages after the right ones."""

    def copy_in(
        self, host_pages: Sequence[int], pages: Sequence[int], layers: Sequence[int]
    ) -> Ticket[None]:
        last = self.buffers(layers[0])[0].shape[0] - 1
        return super().copy_in(host_pages, [(p + 1) % last for p in pages], layers)


class CopyOutSwapsKV(TorchKVPool):
    """Writes V before K into the arena, and reads it back the same way."""

    def copy_out(
        self, pages: Sequence[int], host_pages: Sequence[int], layers: Sequence[int]
    ) -> Ticket[None]:
        ticket = super().copy_out(pages, host_pages, layers)
        ticket.wait()
        rows = [self._row[layer] for layer in layers]
        for page in host_pages:
            self._arena[page, rows] = self._arena[page, rows][:, ::-1]
        return ticket


# Sampler


class NeighbourPenalty(TorchSampler):
    """Each row is penalised with its neighbour's counts."""

    def _penalise(self, logits: Tensor, slots: Tensor) -> Tensor:
        return super()._penalise(logits, slots.roll(1))


class SeedByRow(TorchSampler):
    """The row's index in the batch stands in for its seed."""

    def _draw(self, logits: Tensor, greedy_ids: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        kept = self._longs.clone()
        self._longs[slots, 0] = torch.arange(len(slots))
        drawn = super()._draw(logits, greedy_ids, slots, positions)
        self._longs.copy_(kept)
        return drawn


class PositionIgnored(TorchSampler):
    """Every position of a seed draws the same number."""

    def _draw(self, logits: Tensor, greedy_ids: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        return super()._draw(logits, greedy_ids, slots, torch.zeros_like(positions))


class CountsKept(TorchSampler):
    """A slot's counts are added to those of the request that had it before."""

    def _admit_counts(self, admission: Any) -> None:
        kept = None if self._counts is None else self._counts[admission.slot].clone()
        super()._admit_counts(admission)
        if kept is not None and self._counts is not None:
            self._counts[admission.slot] += kept


# Kernels


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Reads a view as if it were contiguous."""
    strides = torch.empty(x.shape).stride()
    flat = x.as_strided(x.shape, strides).float()
    scale = torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + eps)
    return (flat * scale * weight.float()).to(x.dtype)


def linear(x: Tensor, weight: LinearWeight) -> Tensor:
    """Accumulates in the input's type, 16 terms at a time."""
    total = torch.zeros(x.shape[0], weight.out_features, dtype=x.dtype)
    for start in range(0, x.shape[1], 16):
        part = x[:, start : start + 16].float() @ weight.weight[:, start : start + 16].float().T
        total = total + part.to(x.dtype)
    return total if weight.bias is None else total + weight.bias


def half_only(call: OpCall) -> str | None:
    return None if call.dtype == "float16" else "only float16"


def embedding(ids: Tensor, table: Tensor, scale: float) -> Tensor:
    """Forgets the scale."""
    return table[ids]


def rope(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """Takes the token's index for its position."""
    half = cos_sin.shape[-1] // 2
    angles = cos_sin[torch.arange(len(x))].unsqueeze(1)
    cos, sin = angles[..., :half], angles[..., half:]
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((turned.to(x.dtype), x[..., 2 * half :]), dim=-1)


def silu_mul(x: Tensor) -> Tensor:
    """Works in place."""
    gate, up = x.chunk(2, dim=-1)
    return gate.copy_(torch.nn.functional.silu(gate)) * up


def gelu_mul(x: Tensor) -> Tensor:
    """Calls the reference, under a vendor's name."""
    return OPS["gelu_mul"].reference(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Takes the mean square for the variance, and leaves the mean in."""
    wide = x.float()
    out = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.float()
    return (out if bias is None else out + bias.float()).to(x.dtype)


def mlp(x: Tensor, activation: str, up: LinearWeight, down: LinearWeight) -> Tensor:
    """Takes the tanh approximation of gelu for gelu itself."""
    wide = F.linear(x, up.weight, up.bias)
    if activation == "gelu_erf_mul":
        gate, other = wide.chunk(2, dim=-1)
        wide = F.gelu(gate) * other
    else:
        wide = torch.relu(wide) if activation == "relu" else F.gelu(wide, approximate="tanh")
    return F.linear(wide, down.weight, down.bias)


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Leaves out the case of a zero row."""
    scale = x.float().abs().amax(-1, keepdim=True) / 127.0
    return torch.round(x.float() / scale).nan_to_num().clamp(-127, 127).to(torch.int8), scale


def copy_pages(pool: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Copies page after page, reading what it has just written."""
    out = pool.clone()
    for a, b in zip(source.tolist(), target.tolist(), strict=True):
        out[b] = out[a]
    return out


def sample_top_k_top_p(
    logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """Leaves out the token whose probability reaches top_p."""
    ordered, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1]).unsqueeze(0)
    limit = torch.where(top_k < 1, logits.shape[1], top_k).unsqueeze(1)
    probs = torch.softmax(ordered.masked_fill(rank >= limit, NEGATIVE), dim=-1)
    keep = (probs.cumsum(-1) <= top_p.unsqueeze(1)) | (top_p.unsqueeze(1) >= 1)
    keep = (keep & (probs >= min_p.unsqueeze(1) * probs[:, :1])) | (rank == 0)
    total = torch.where(keep, probs, 0.0).cumsum(-1)
    chosen = (total <= uniform.unsqueeze(1) * total[:, -1:]).sum(-1, keepdim=True)
    last = keep.sum(-1, keepdim=True) - 1
    return ids.gather(1, torch.minimum(chosen, last)).squeeze(1)


def apply_token_bitmask(logits: Tensor, mask: Tensor) -> Tensor:
    """Loses the sign bit of each word."""
    bits = torch.arange(32, dtype=torch.int32)
    allowed = ((mask.unsqueeze(-1) >> bits) & 1).bool()
    allowed[..., 31] = False
    flat = allowed.flatten(1)[:, : logits.shape[1]]
    return torch.where(flat, logits, torch.full_like(logits, NEGATIVE))


# Runner


class LastTokenLate(EagerRunner):
    """A slot's last token is stored one step late."""

    def __init__(self, parts: RunnerParts) -> None:
        super().__init__(parts)
        self._newest = self._last_tokens.clone()

    def sample(self, *args: Any) -> Any:
        ticket = super().sample(*args)
        self._last_tokens, self._newest = self._newest, self._last_tokens.clone()
        return ticket


class DeltasDropped(EagerRunner):
    """Page-table changes of a step without admissions are lost."""

    def forward(self, batch: Any) -> Any:
        if not batch.admissions:
            empty = tuple(
                type(d)(d.slots[:0], d.indices[:0], d.pages[:0]) for d in batch.page_deltas
            )
            batch = replace(batch, page_deltas=empty)
        return super().forward(batch)


class BuildsLate(EagerRunner):
    """Builds for each number of tokens when the first such step comes, not when warming up."""

    def __init__(self, parts: RunnerParts, built: set[int]) -> None:
        super().__init__(parts)
        self._built = built

    def forward(self, batch: Batch) -> Forward:
        self._built.add(batch.num_tokens)
        return super().forward(batch)


def builds_late() -> Backend:
    """The backend of ``BuildsLate``, which counts what it built."""
    built: set[int] = set()
    return replace(BASE, runner=lambda parts: BuildsLate(parts, built), builds=lambda: len(built))


class WantedOfNeighbour(EagerRunner):
    """Ids that are named at a position are scored at the one before it."""

    def sample(self, forward: Any, batch: Batch, mask: Any = None) -> Any:
        shifted = np.maximum(batch.wanted_tokens - 1, 0)
        return super().sample(forward, replace(batch, wanted_tokens=shifted), mask)


# Runtime


class ProfileForgotten(TorchRuntime):
    """Records, but begins only when asked to stop."""

    def profile(self, **options: Any) -> Any:
        start = super().profile

        class Late:
            def stop(self, path: Path) -> None:
                start(**options).stop(path)

        return Late()


# Collectives


class WrongShare(TorchCollectives):
    """Every rank gets the first rank's share of a sum."""

    def reduce_scatter(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)[: x.shape[0] // self.world_size].clone()


def wrong_share() -> Backend:
    """As an entry point would name it: the ranks are processes of their own."""
    has = replace(BASE.capabilities, max_world_size=2, collective_library="gloo")
    return replace(BASE, capabilities=has, collectives=WrongShare)
