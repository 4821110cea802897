"""Backends with one bug each, of the kinds that vendors really make; each must turn the kit red.

Every mutant is core's defaults with one part or kernel replaced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tupelo.backend import (
    Backend,
    Capabilities,
    EagerRunner,
    Kernel,
    KVPool,
    LinearWeight,
    OpCall,
    Plan,
    ReferenceAttention,
    RunnerParts,
    StepInputs,
    Ticket,
    Tier,
    TorchCollectives,
    TorchKVPool,
    TorchSampler,
)
from tupelo.ops import OPS
from tupelo.ops.sampling import NEGATIVE
from tupelo.specs import AttentionSpec

BASE = Backend(
    name="base",
    device="cpu",
    capabilities=Capabilities(
        dtypes=("float32",), same_step_sharing=True, plan_needs_host_lens=True
    ),
)
HALF = replace(BASE.capabilities, dtypes=("float32", "float16"))


@dataclass(frozen=True)
class Mutant:
    """A bug and where the kit must see it.

    Attributes:
        backend: with the bug. only: the suite to run, a prefix of ids.
        red: patterns of ids; each must match a failure, and every failure one of them.
        spared: ids that must pass: the bug is the one that it is meant to be.
    """

    backend: Backend
    only: str
    red: tuple[str, ...]
    spared: tuple[str, ...]


def _attention(make: Callable[..., ReferenceAttention]) -> Backend:
    return replace(BASE, attention=make)


def _kernel(
    fn: Callable[..., Any],
    capabilities: Capabilities = BASE.capabilities,
    **more: Any,
) -> Backend:
    kernel = Kernel(op=fn.__name__, name=f"mutant_{fn.__name__}", fn=fn, **more)
    return replace(BASE, capabilities=capabilities, kernels=(kernel,))


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
        kind: AttentionSpec,
    ) -> Tensor:  # fmt: skip
        groups = kind.num_heads // kind.num_kv_heads
        turned = q.unflatten(1, (groups, kind.num_kv_heads)).transpose(1, 2).flatten(1, 2)
        out = super()._attend(turned, k_pool, v_pool, gather, distance, kind)
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


class StalePlan(ReferenceAttention):
    """``plan(out=)`` refills where to store, but not what to read."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        plan = super().plan(inputs, out)
        if out is not None:
            plan.gather = out.gather
        return plan


class WindowTooWide(ReferenceAttention):
    """A window of w sees w + 1 keys."""

    def __init__(self, specs: Sequence[AttentionSpec], *args: Any) -> None:
        wide = [s if s.window is None else replace(s, window=s.window + 1) for s in specs]
        super().__init__(wide, *args)


class ScaleForgotten(ReferenceAttention):
    """Scores are not scaled."""

    def __init__(self, specs: Sequence[AttentionSpec], *args: Any) -> None:
        super().__init__([replace(s, scale=1.0) for s in specs], *args)


class RowByRow(ReferenceAttention):
    """Stores and attends one row after another, though it declares same_step_sharing."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, spec: int, layer: int, kv: KVPool, plan: Plan
    ) -> Tensor:
        out = torch.empty_like(q)
        for token in range(len(q)):
            one = slice(token, token + 1)
            part = replace(
                plan,
                store=tuple(s[one] for s in plan.store),
                gather=tuple(g[one] for g in plan.gather),
                distance=plan.distance[one],
            )
            out[one] = super().forward(q[one], k[one], v[one], spec, layer, kv, part)
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


def _half_only(call: OpCall) -> str | None:
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


# Collectives


class WrongShare(TorchCollectives):
    """Every rank gets the first rank's share of a sum."""

    def reduce_scatter(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)[: x.shape[0] // self.world_size].clone()


def wrong_share() -> Backend:
    """As an entry point would name it: the ranks are processes of their own."""
    has = replace(BASE.capabilities, max_world_size=2, collective_library="gloo")
    return replace(BASE, capabilities=has, collectives=WrongShare)


MUTANTS: dict[str, Mutant] = {
    "later_chunk_sees_ahead": Mutant(
        _attention(LaterChunkSeesAhead),
        "attention/",
        ("attention/chunked/*", "attention/*"),
        ("attention/prefill/page_4", "attention/decode/page_4", "attention/one_token"),
    ),
    "head_map_transposed": Mutant(
        _attention(HeadMapTransposed),
        "attention/",
        ("attention/geometry/heads_6_2/*", "attention/*"),
        ("attention/geometry/heads_2_2/dim_16", "attention/geometry/heads_8_1/dim_16"),
    ),
    "second_page_ignored": Mutant(
        _attention(SecondPageIgnored),
        "attention/",
        ("attention/prefill/page_4", "attention/decode/page_16", "attention/*"),
        ("attention/one_token",),
    ),
    "slot_wrong_at_boundary": Mutant(
        _attention(SlotWrongAtBoundary),
        "attention/",
        ("attention/boundaries/page_4", "attention/decode/page_16", "attention/*"),
        ("attention/one_token",),
    ),
    "stale_plan_buffer": Mutant(
        _attention(StalePlan), "attention/", ("attention/refilled_plan",), ("attention/padding",)
    ),
    "window_too_wide": Mutant(
        _attention(WindowTooWide),
        "attention/",
        ("attention/window/*", "attention/soft_cap/window"),
        ("attention/long", "attention/soft_cap"),
    ),
    "attention_scale_forgotten": Mutant(
        _attention(ScaleForgotten), "attention/prefill", ("attention/prefill/*",), ()
    ),
    "same_step_sharing_overclaimed": Mutant(
        _attention(RowByRow),
        "attention/",
        ("attention/shared_in_the_same_step",),
        ("attention/shared_prefix/page_4", "attention/mixed/page_4"),
    ),
    "padding_stored": Mutant(
        _attention(PaddingStored),
        "attention/",
        ("attention/*padding", "attention/refilled_plan"),
        ("attention/long",),
    ),
    "copy_in_to_the_wrong_page": Mutant(
        replace(BASE, kv_pool=CopyInToNextPage),
        "kv/",
        ("kv/round_trip", "kv/copy_in_leaves_others"),
        ("kv/copy_out", "kv/groups"),
    ),
    "copy_out_swaps_k_and_v": Mutant(
        replace(BASE, kv_pool=CopyOutSwapsKV),
        "kv/",
        ("kv/copy_out", "kv/copy_out_layers", "kv/*"),
        ("kv/num_bytes",),
    ),
    "neighbour_penalty": Mutant(
        replace(BASE, sampler=NeighbourPenalty),
        "sampler/",
        ("sampler/penalties/neighbour", "sampler/padding"),
        ("sampler/penalties/together", "sampler/greedy"),
    ),
    "seed_by_batch_index": Mutant(
        replace(BASE, sampler=SeedByRow),
        "sampler/",
        ("sampler/seed/row_order", "sampler/seed/other_slot", "sampler/seed/alone"),
        ("sampler/support/top_k", "sampler/greedy"),
    ),
    "position_ignored": Mutant(
        replace(BASE, sampler=PositionIgnored),
        "sampler/",
        ("sampler/seed/position", "sampler/distribution/none", "sampler/*"),
        ("sampler/seed/row_order", "sampler/greedy"),
    ),
    "counts_kept": Mutant(
        replace(BASE, sampler=CountsKept),
        "sampler/",
        ("sampler/penalties/slot_reuse",),
        ("sampler/penalties/together",),
    ),
    "strided_input_misread": Mutant(
        _kernel(rms_norm),
        "ops/rms_norm/",
        ("ops/rms_norm/float32/strided/*", "ops/rms_norm/float32/heads_strided/*"),
        ("ops/rms_norm/float32/typical/chosen", "ops/rms_norm/float32/long/chosen"),
    ),
    "half_accumulation": Mutant(
        _kernel(linear, HALF, supports=_half_only),
        "ops/linear/",
        ("ops/linear/float16/long/chosen", "ops/linear/float16/long/mutant_linear", "ops/linear/*"),
        ("ops/linear/float16/empty/chosen", "ops/linear/float32/long/chosen"),
    ),
    "missing_scale": Mutant(
        _kernel(embedding),
        "ops/embedding/",
        ("ops/embedding/float32/scaled/*",),
        ("ops/embedding/float32/typical/chosen",),
    ),
    "positions_ignored": Mutant(
        _kernel(rope),
        "ops/rope/",
        ("ops/rope/float32/typical/*", "ops/rope/*"),
        ("ops/rope/float32/empty/chosen",),
    ),
    "argument_changed": Mutant(
        _kernel(silu_mul),
        "ops/silu_mul/",
        ("ops/silu_mul/float32/typical/*", "ops/silu_mul/*"),
        ("ops/silu_mul/float32/empty/chosen",),
    ),
    "silent_fallback": Mutant(
        _kernel(gelu_mul, tier=Tier.VENDOR), "ops/gelu_mul/", ("ops/gelu_mul/float32/*",), ()
    ),
    "zero_row_forgotten": Mutant(
        _kernel(quantize),
        "ops/quantize/",
        ("ops/quantize/float32/typical/*",),
        ("ops/quantize/float32/odd/chosen",),
    ),
    "copy_reads_what_it_wrote": Mutant(
        _kernel(copy_pages),
        "ops/copy_pages/",
        ("ops/copy_pages/float32/chain/*", "ops/copy_pages/float32/swap/*"),
        ("ops/copy_pages/float32/typical/chosen",),
    ),
    "top_p_off_by_one": Mutant(
        _kernel(sample_top_k_top_p),
        "ops/sample_top_k_top_p/",
        ("ops/sample_top_k_top_p/float32/typical/*", "ops/sample_top_k_top_p/*"),
        ("ops/sample_top_k_top_p/float32/one_row/chosen",),
    ),
    "top_p_off_by_one_in_the_sampler": Mutant(
        _kernel(sample_top_k_top_p),
        "sampler/",
        ("sampler/support/top_p", "sampler/support/together", "sampler/distribution/*"),
        ("sampler/support/top_k", "sampler/support/min_p"),
    ),
    "sign_bit_lost": Mutant(
        _kernel(apply_token_bitmask),
        "ops/apply_token_bitmask/",
        ("ops/apply_token_bitmask/float32/typical/*", "ops/apply_token_bitmask/*"),
        ("ops/apply_token_bitmask/float32/empty/chosen",),
    ),
    "last_token_late": Mutant(
        replace(BASE, runner=LastTokenLate),
        "runner/",
        ("runner/prefill_decode", "runner/pipelined", "runner/*"),
        ("runner/scores",),
    ),
    "page_deltas_dropped": Mutant(
        replace(BASE, runner=DeltasDropped),
        "runner/",
        ("runner/prefill_decode", "runner/*"),
        ("runner/scores",),
    ),
    "batch_invariance_overclaimed": Mutant(
        replace(BASE, capabilities=replace(BASE.capabilities, batch_invariant=("float32",))),
        "ops/moe_experts/",
        ("ops/moe_experts/float32/batch_invariant",),
        ("ops/moe_experts/float32/typical/chosen",),
    ),
    "signature_differs": Mutant(
        replace(
            BASE,
            kernels=(Kernel(op="silu_mul", name="renamed", fn=lambda value: value),),
        ),
        "contract/",
        ("contract/record", "contract/kernel/renamed", "contract/part/*"),
        ("contract/capabilities",),
    ),
    "reference_under_a_vendors_name": Mutant(
        replace(
            BASE,
            kernels=(Kernel(op="silu_mul", name="fast", fn=OPS["silu_mul"].reference),),
        ),
        "contract/",
        ("contract/kernel/fast",),
        ("contract/record", "contract/capabilities"),
    ),
    "unknown_scheme_declared": Mutant(
        replace(
            BASE, capabilities=replace(BASE.capabilities, quant_schemes=("none", "int4_group"))
        ),
        "contract/",
        ("contract/capabilities",),
        ("contract/record",),
    ),
    "part_without_a_method": Mutant(
        replace(BASE, sampler=lambda *args: object()),
        "contract/",
        ("contract/part/*",),
        ("contract/record",),
    ),
}
