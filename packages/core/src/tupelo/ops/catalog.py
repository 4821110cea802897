"""The closed list of ops, with samples and tolerances beside each."""

from collections.abc import Callable, Iterator
from typing import Any

from tupelo.ops.activation import gelu_mul, silu_mul
from tupelo.ops.collective import all_reduce_add_norm
from tupelo.ops.embedding import embedding
from tupelo.ops.linear import add_norm_linear, gated_mlp, linear
from tupelo.ops.merge import merge_attention
from tupelo.ops.moe import moe_experts, moe_route
from tupelo.ops.norm import add_rms_norm, rms_norm
from tupelo.ops.pages import copy_pages
from tupelo.ops.quantize import quantize
from tupelo.ops.rope import norm_rope_qkv, rope
from tupelo.ops.sampling import apply_token_bitmask, sample_top_k_top_p
from tupelo.ops.spec import OpSpec, Sample


def _no_samples() -> Iterator[Sample]:
    return iter(())


def _spec(reference: Callable[..., Any], *, exact: bool = False) -> OpSpec:
    return OpSpec(
        name=reference.__name__, reference=reference, samples=_no_samples, exact_outputs=exact
    )


OPS: dict[str, OpSpec] = {
    spec.name: spec
    for spec in (
        _spec(rms_norm),
        _spec(add_rms_norm),
        _spec(rope),
        _spec(norm_rope_qkv),
        _spec(silu_mul),
        _spec(gelu_mul),
        _spec(linear),
        _spec(add_norm_linear),
        _spec(gated_mlp),
        _spec(all_reduce_add_norm),
        _spec(moe_route),
        _spec(moe_experts),
        _spec(embedding),
        _spec(merge_attention),
        _spec(quantize),
        _spec(sample_top_k_top_p, exact=True),
        _spec(copy_pages, exact=True),
        _spec(apply_token_bitmask, exact=True),
    )
}
