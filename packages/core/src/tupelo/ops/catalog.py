"""The closed list of ops: what ``OpCall.shape`` holds, samples, and tolerances with their reasons.

A tolerance is relative to the op computed in float32 from inputs that are already rounded to the
call's dtype, so it covers the kernel's own roundings and nothing else. One rounding to nearest
costs up to 2^-8 of the value in bfloat16 and 2^-11 of it in float16 (half a unit in the last place
of a significand of 8 and of 11 bits).
"""

from functools import partial

from tupelo.ops.activation import gelu_mul, silu_mul
from tupelo.ops.collective import all_reduce_add_norm
from tupelo.ops.embedding import embedding
from tupelo.ops.linear import add_norm_linear, gated_mlp, linear, mlp
from tupelo.ops.merge import merge_attention
from tupelo.ops.moe import moe_experts, moe_route
from tupelo.ops.norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from tupelo.ops.pages import copy_pages
from tupelo.ops.quantize import quantize
from tupelo.ops.rope import norm_rope_qkv, rope
from tupelo.ops.samples_elementwise import (
    add_rms_norm_samples,
    all_reduce_add_norm_samples,
    embedding_samples,
    gate_samples,
    merge_attention_samples,
    norm_rope_qkv_samples,
    quantize_samples,
    rms_norm_samples,
    rope_samples,
)
from tupelo.ops.samples_encoder import add_layer_norm_samples, layer_norm_samples, mlp_samples
from tupelo.ops.samples_linear import (
    add_norm_linear_samples,
    gated_mlp_samples,
    linear_samples,
    moe_experts_samples,
    moe_route_samples,
)
from tupelo.ops.samples_sampling import (
    apply_token_bitmask_samples,
    copy_pages_samples,
    sample_top_k_top_p_samples,
)
from tupelo.ops.sampling import apply_token_bitmask, sample_top_k_top_p
from tupelo.ops.spec import OpSpec, Tolerance

_FLOAT32 = Tolerance(
    absolute=1e-5,
    relative=1e-5,
    reason="float32 throughout; sums in another order, fast exp and rsqrt: some units of 6e-8",
)

ELEMENTWISE = {
    "float32": (_FLOAT32,),
    "bfloat16": (
        Tolerance(
            absolute=2e-3,
            relative=3 * 2**-8,
            reason="up to three roundings of 2^-8: the sum, the normed or gated value, the result",
        ),
    ),
    "float16": (
        Tolerance(
            absolute=3e-4, relative=3 * 2**-11, reason="up to three roundings of 2^-11, as above"
        ),
    ),
}

ADD_LAYER_NORM = {
    **ELEMENTWISE,
    "bfloat16": (
        Tolerance(
            absolute=3.2e-2,
            relative=3 * 2**-8,
            reason="sums of up to 8 standard deviations are rounded by 2^-8 before their mean goes",
        ),
    ),
    "float16": (
        Tolerance(
            absolute=4e-3,
            relative=3 * 2**-11,
            reason="sums of up to 8 standard deviations are rounded by 2^-11, as above",
        ),
    ),
}

NORM_ROPE = {
    "float32": (_FLOAT32,),
    "bfloat16": (
        Tolerance(
            absolute=1.6e-2,
            relative=2**-7,
            reason="normed values of up to 4 are rounded by 2^-8, then two of them are subtracted",
        ),
    ),
    "float16": (
        Tolerance(
            absolute=2e-3,
            relative=2**-10,
            reason="normed values of up to 4 are rounded by 2^-11, then two of them are subtracted",
        ),
    ),
}

PRODUCT = {
    "float32": (
        Tolerance(
            absolute=5e-5,
            relative=5e-5,
            reason="sums of up to 8,192 float32 terms in another order: about sqrt(8192) x 6e-8 of "
            "the sum; TF32 products (2^-11) are outside",
        ),
    ),
    "bfloat16": (
        Tolerance(
            absolute=4e-3,
            relative=2**-7,
            reason="float32 sums, one rounding of 2^-8, one more where partial sums are stored",
        ),
    ),
    "float16": (
        Tolerance(
            absolute=5e-4,
            relative=2**-10,
            reason="float32 sums, one rounding of 2^-11, one more where partial sums are stored",
        ),
    ),
}

COMPOSED = {
    "float32": (
        Tolerance(
            absolute=1e-4, relative=1e-4, reason="two float32 products in a row; TF32 is outside"
        ),
    ),
    "bfloat16": (
        Tolerance(
            absolute=4e-2,
            relative=2**-6,
            reason="intermediates are rounded to bfloat16 up to three times: errors of 2^-8 of "
            "each term add up at random to about 2^-7 of the output's size, allow 5 sigma",
        ),
    ),
    "float16": (
        Tolerance(
            absolute=5e-3,
            relative=2**-9,
            reason="as in bfloat16 with roundings of 2^-11: 2^-10 of the output's size, 5 sigma",
        ),
    ),
}

MERGE = {dtype: (*out, _FLOAT32) for dtype, out in ELEMENTWISE.items()}
"""The output in the call's dtype, the log-sum always in float32."""

ROUTE = dict.fromkeys(
    ("float32", "bfloat16", "float16"),
    (
        _FLOAT32,
        Tolerance(absolute=0.0, relative=0.0, reason="expert ids; the samples have no ties"),
    ),
)

QUANTIZE = dict.fromkeys(
    ("float32", "bfloat16", "float16"),
    (
        Tolerance(
            absolute=1.0, relative=0.0, reason="a quotient at a half may round either way: one step"
        ),
        Tolerance(absolute=0.0, relative=1e-6, reason="a maximum and one float32 division"),
    ),
)

_ADDED = ("x", "residual")
_LOGITS = ("logits", "top_p", "min_p", "uniform")

OPS: dict[str, OpSpec] = {
    spec.name: spec
    for spec in (
        OpSpec(
            name="rms_norm",
            reference=rms_norm,
            samples=rms_norm_samples,
            call_axes=("hidden_size",),
            tolerances=ELEMENTWISE,
            row_args=("x",),
        ),
        OpSpec(
            name="add_rms_norm",
            reference=add_rms_norm,
            samples=add_rms_norm_samples,
            call_axes=("hidden_size",),
            tolerances=ELEMENTWISE,
            row_args=_ADDED,
        ),
        OpSpec(
            name="layer_norm",
            reference=layer_norm,
            samples=layer_norm_samples,
            call_axes=("hidden_size",),
            tolerances=ELEMENTWISE,
            row_args=("x",),
        ),
        OpSpec(
            name="add_layer_norm",
            reference=add_layer_norm,
            samples=add_layer_norm_samples,
            call_axes=("hidden_size",),
            tolerances=ADD_LAYER_NORM,
            row_args=_ADDED,
        ),
        OpSpec(
            name="rope",
            reference=rope,
            samples=rope_samples,
            call_axes=("num_heads", "head_dim", "rotary_dim"),
            tolerances=ELEMENTWISE,
            float32_args=("cos_sin",),
            row_args=("x", "positions"),
        ),
        OpSpec(
            name="norm_rope_qkv",
            reference=norm_rope_qkv,
            samples=norm_rope_qkv_samples,
            call_axes=("num_heads", "num_kv_heads", "head_dim", "rotary_dim"),
            tolerances=NORM_ROPE,
            float32_args=("cos_sin",),
            row_args=("qkv", "positions"),
        ),
        OpSpec(
            name="silu_mul",
            reference=silu_mul,
            samples=partial(gate_samples, "silu_mul"),
            call_axes=("width",),
            tolerances=ELEMENTWISE,
            row_args=("x",),
        ),
        OpSpec(
            name="gelu_mul",
            reference=gelu_mul,
            samples=partial(gate_samples, "gelu_mul"),
            call_axes=("width",),
            tolerances=ELEMENTWISE,
            row_args=("x",),
        ),
        OpSpec(
            name="linear",
            reference=linear,
            samples=linear_samples,
            call_axes=("out_features", "in_features"),
            tolerances=PRODUCT,
            row_args=("x",),
        ),
        OpSpec(
            name="add_norm_linear",
            reference=add_norm_linear,
            samples=add_norm_linear_samples,
            call_axes=("out_features", "hidden_size"),
            tolerances=COMPOSED,
            row_args=_ADDED,
        ),
        OpSpec(
            name="gated_mlp",
            reference=gated_mlp,
            samples=gated_mlp_samples,
            call_axes=("hidden_size", "intermediate_size"),
            tolerances=COMPOSED,
            row_args=("x",),
        ),
        OpSpec(
            name="mlp",
            reference=mlp,
            samples=mlp_samples,
            call_axes=("hidden_size", "intermediate_size"),
            tolerances=COMPOSED,
            row_args=("x",),
        ),
        OpSpec(
            name="all_reduce_add_norm",
            reference=all_reduce_add_norm,
            samples=all_reduce_add_norm_samples,
            call_axes=("hidden_size",),
            tolerances=ELEMENTWISE,
            row_args=_ADDED,
        ),
        OpSpec(
            name="moe_route",
            reference=moe_route,
            samples=moe_route_samples,
            call_axes=("num_experts", "top_k"),
            tolerances=ROUTE,
            row_args=("logits",),
        ),
        OpSpec(
            name="moe_experts",
            reference=moe_experts,
            samples=moe_experts_samples,
            call_axes=("num_experts", "top_k", "hidden_size", "intermediate_size"),
            tolerances=COMPOSED,
            float32_args=("weights",),
            row_args=("x", "weights", "experts"),
        ),
        OpSpec(
            name="embedding",
            reference=embedding,
            samples=embedding_samples,
            call_axes=("vocab_size", "hidden_size"),
            exact_outputs=True,
            row_args=("ids",),
        ),
        OpSpec(
            name="merge_attention",
            reference=merge_attention,
            samples=merge_attention_samples,
            call_axes=("num_heads", "head_dim"),
            tolerances=MERGE,
            float32_args=("lse_a", "lse_b"),
            row_args=("out_a", "lse_a", "out_b", "lse_b"),
        ),
        OpSpec(
            name="quantize",
            reference=quantize,
            samples=quantize_samples,
            call_axes=("hidden_size",),
            tolerances=QUANTIZE,
            row_args=("x",),
        ),
        OpSpec(
            name="sample_top_k_top_p",
            reference=sample_top_k_top_p,
            samples=sample_top_k_top_p_samples,
            call_axes=("vocab_size",),
            exact_outputs=True,
            float32_args=_LOGITS,
            row_args=(*_LOGITS, "top_k"),
        ),
        OpSpec(
            name="copy_pages",
            reference=copy_pages,
            samples=copy_pages_samples,
            call_axes=("page_elements",),
            exact_outputs=True,
        ),
        OpSpec(
            name="apply_token_bitmask",
            reference=apply_token_bitmask,
            samples=apply_token_bitmask_samples,
            call_axes=("vocab_size",),
            exact_outputs=True,
            row_args=("logits", "mask"),
        ),
    )
}
