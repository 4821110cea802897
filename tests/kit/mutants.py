"""Backends with one bug each; each must turn the kit red.

Every mutant is core's defaults with one part or kernel replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from tests.kit.broken import (
    BASE,
    HALF,
    ChunksSlide,
    CopyInToNextPage,
    CopyOutSwapsKV,
    CountsKept,
    DeltasDropped,
    ExpandedWrongly,
    HeadMapTransposed,
    LastTokenLate,
    LatentValuesTooLate,
    LaterChunkSeesAhead,
    NeighbourPenalty,
    PackedKeysAsTheyCame,
    PaddingStored,
    PositionIgnored,
    ProfileForgotten,
    RowByRow,
    ScaleForgotten,
    SecondPageIgnored,
    SeedByRow,
    SinksDiluted,
    SlotWrongAtBoundary,
    StalePlan,
    WantedOfNeighbour,
    WindowTooWide,
    apply_token_bitmask,
    builds_late,
    copy_pages,
    embedding,
    gelu_mul,
    half_only,
    layer_norm,
    linear,
    mlp,
    quantize,
    rms_norm,
    rope,
    sample_top_k_top_p,
    silu_mul,
    wrong_share,
)
from tests.kit.broken_cut import CutBeforeItStores
from tests.kit.broken_groups import PrefixOfNeighbour, PrefixWeightForgotten
from tests.kit.broken_pooling import (
    FirstForMean,
    OneHead,
    RowsMixed,
    SegmentsDropped,
    WindowOneSided,
)

from tupelo.backend import (
    CONTRACT_VERSION,
    Backend,
    Capabilities,
    Kernel,
    ReferenceAttention,
    Tier,
)
from tupelo.ops import OPS

__all__ = ["BASE", "MUTANTS", "Mutant", "wrong_share"]

INVARIANT = replace(BASE.capabilities, batch_invariant=("float32",))
"""What the defaults are not."""


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


_DOWN = count(1000, -1)


def _attention(make: Callable[..., ReferenceAttention]) -> Backend:
    return replace(BASE, attention=make)


def _kernel(
    fn: Callable[..., Any],
    capabilities: Capabilities = BASE.capabilities,
    **more: Any,
) -> Backend:
    kernel = Kernel(op=fn.__name__, name=f"mutant_{fn.__name__}", fn=fn, **more)
    return replace(BASE, capabilities=capabilities, kernels=(kernel,))


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
        _attention(StalePlan), "attention/", ("attention/*refilled_plan",), ("attention/padding",)
    ),
    "window_too_wide": Mutant(
        _attention(WindowTooWide),
        "attention/",
        (
            "attention/window/*",
            "attention/chunked_window/*",
            "attention/soft_cap/window",
            "attention/sinks/window",
            "attention/prefix_groups/window",
        ),
        ("attention/long", "attention/soft_cap"),
    ),
    "chunks_slide": Mutant(
        _attention(ChunksSlide),
        "attention/",
        ("attention/chunked_window/*",),
        ("attention/window/mixed", "attention/long"),
    ),
    "packed_keys_as_they_came": Mutant(
        _attention(PackedKeysAsTheyCame),
        "attention/",
        ("attention/packed_qkv/float32",),
        ("attention/prefill/page_4", "attention/mixed/page_4"),
    ),
    "cut_before_it_stores": Mutant(
        _attention(CutBeforeItStores),
        "attention/",
        ("attention/packed_qkv/float32",),
        ("attention/prefill/page_4", "attention/mixed/page_4"),
    ),
    "attention_sinks_of_another_head": Mutant(
        _attention(SinksDiluted),
        "attention/",
        ("attention/sinks", "attention/sinks/*"),
        ("attention/mixed/page_4", "attention/latent/long"),
    ),
    "attention_latent_values_too_late": Mutant(
        _attention(LatentValuesTooLate),
        "attention/",
        ("attention/latent/*",),
        ("attention/mixed/page_4", "attention/sinks"),
    ),
    "attention_latent_without_positions": Mutant(
        _attention(ExpandedWrongly),
        "attention/",
        ("attention/latent/absorbed/float32",),
        ("attention/latent/long", "attention/mixed/page_4"),
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
    "prefix_of_the_neighbour": Mutant(
        _attention(PrefixOfNeighbour),
        "attention/",
        ("attention/prefix_groups/several", "attention/prefix_groups/*"),
        ("attention/shared_prefix/page_4", "attention/prefix_groups/all_rows"),
    ),
    "prefix_weight_forgotten": Mutant(
        _attention(PrefixWeightForgotten),
        "attention/",
        ("attention/prefix_groups/all_rows", "attention/prefix_groups/*"),
        ("attention/shared_prefix/page_4",),
    ),
    "padding_stored": Mutant(
        _attention(PaddingStored),
        "attention/",
        ("attention/*padding", "attention/*refilled_plan"),
        ("attention/long",),
    ),
    "rows_mixed": Mutant(
        _attention(RowsMixed),
        "ragged/",
        ("ragged/rows", "ragged/rows/padded", "ragged/*"),
        ("ragged/one_row",),
    ),
    "window_one_sided": Mutant(
        _attention(WindowOneSided),
        "ragged/",
        ("ragged/window*", "ragged/soft_cap_window*"),
        ("ragged/rows", "ragged/soft_cap", "ragged/one_row"),
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
        _kernel(linear, HALF, supports=half_only),
        "ops/linear/",
        ("ops/linear/float16/long/chosen", "ops/linear/float16/long/mutant_linear", "ops/linear/*"),
        ("ops/linear/float16/empty/chosen", "ops/linear/float32/long/chosen"),
    ),
    "mean_kept": Mutant(
        _kernel(layer_norm),
        "ops/layer_norm/",
        ("ops/layer_norm/float32/mean_of_3/*", "ops/layer_norm/*"),
        ("ops/layer_norm/float32/empty/chosen",),
    ),
    "gelu_approximated": Mutant(
        _kernel(mlp),
        "ops/mlp/",
        ("ops/mlp/float32/exact_gelu/*", "ops/mlp/float32/*"),
        tuple(f"ops/mlp/float32/{name}/chosen" for name in ("tanh", "relu", "gated")),
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
    "first_for_mean": Mutant(
        replace(BASE, runner=FirstForMean), "runner/", ("runner/pooled",), ("runner/token_types",)
    ),
    "one_head": Mutant(
        replace(BASE, runner=OneHead), "runner/", ("runner/pooled",), ("runner/token_types",)
    ),
    "segments_dropped": Mutant(
        replace(BASE, runner=SegmentsDropped),
        "runner/",
        ("runner/token_types",),
        ("runner/pooled", "runner/scores"),
    ),
    "named_ids_of_the_neighbour": Mutant(
        replace(BASE, runner=WantedOfNeighbour),
        "runner/",
        ("runner/wanted",),
        ("runner/scores", "runner/prefill_decode"),
    ),
    "batch_invariance_overclaimed": Mutant(
        replace(BASE, capabilities=INVARIANT),
        "ops/moe_experts/",
        ("ops/moe_experts/float32/batch_invariant",),
        ("ops/moe_experts/float32/typical/chosen",),
    ),
    "batch_invariance_overclaimed_in_attention": Mutant(
        replace(BASE, capabilities=INVARIANT),
        "attention/",
        ("attention/batch_invariant/float32",),
        ("attention/many_rows", "attention/dtype/float32_kv_float32"),
    ),
    "batch_invariance_overclaimed_in_the_engine": Mutant(
        replace(BASE, capabilities=INVARIANT),
        "engine/llama/",
        ("engine/llama/batch_invariant",),
        ("engine/llama/logprobs", "engine/llama/sampled"),
    ),
    "builds_when_asked": Mutant(
        builds_late(),
        "engine/llama/builds",
        ("engine/llama/builds",),
        (),
    ),
    "builds_forgotten": Mutant(
        replace(BASE, builds=lambda: next(_DOWN)),
        "contract/",
        ("contract/record",),
        ("contract/version", "contract/capabilities"),
    ),
    "of_another_contract": Mutant(
        replace(BASE, contract=CONTRACT_VERSION + 1),
        "contract/",
        ("contract/record", "contract/version"),
        ("contract/capabilities",),
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
    "profile_begins_at_its_end": Mutant(
        replace(BASE, runtime=ProfileForgotten),
        "contract/",
        ("contract/runtime/profile",),
        ("contract/runtime/order", "contract/part/runtime"),
    ),
    "part_without_a_method": Mutant(
        replace(BASE, sampler=lambda *args: object()),
        "contract/",
        ("contract/part/*",),
        ("contract/record",),
    ),
}
