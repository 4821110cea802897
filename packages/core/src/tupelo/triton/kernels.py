"""The portable kernels as records of the contract, for a backend to add to its own."""

from torch import Tensor

from tupelo.ops import Kernel, OpCall, Tier
from tupelo.ops.collective import AllReduce
from tupelo.specs import NO_QUANT
from tupelo.triton.activation import gelu_mul, silu_mul
from tupelo.triton.linear import add_norm_linear, gated_mlp, linear, mlp
from tupelo.triton.linear_config import MAX_ROWS
from tupelo.triton.moe import moe_experts
from tupelo.triton.norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from tupelo.triton.rope import norm_rope_qkv, rope
from tupelo.triton.rows import embedding, merge_attention, quantize
from tupelo.triton.sampling import sample_top_k_top_p
from tupelo.triton.vocab import apply_token_bitmask

_DTYPES = ("float32", "bfloat16", "float16")
_WIDEST_ROW = 65536


def all_reduce_add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, group: AllReduce
) -> tuple[Tensor, Tensor]:
    """As ``tupelo.ops.collective.all_reduce_add_norm``: the group's sum, then one kernel."""
    return add_rms_norm(group.all_reduce(x), residual, weight, eps)


def supports(call: OpCall) -> str | None:
    """None if the kernels can serve a call, else the reason why not: ``Kernel.supports``."""
    if call.dtype not in _DTYPES:
        return f"computes in {', '.join(_DTYPES)}, not {call.dtype}"
    if call.scheme != NO_QUANT:
        return f"reads plain weights, not {call.scheme.name}"
    if call.op in _WHOLE_ROWS and max(call.shape) > _WIDEST_ROW:
        return f"holds a row of up to {_WIDEST_ROW} elements at once, not {max(call.shape)}"
    return None


_WHOLE_ROWS = (
    *("rms_norm", "add_rms_norm", "all_reduce_add_norm"),
    *("layer_norm", "add_layer_norm", "quantize"),
)

_FUNCTIONS = (
    rms_norm,
    add_rms_norm,
    layer_norm,
    add_layer_norm,
    rope,
    norm_rope_qkv,
    silu_mul,
    gelu_mul,
    add_norm_linear,
    gated_mlp,
    mlp,
    all_reduce_add_norm,
    moe_experts,
    embedding,
    merge_attention,
    quantize,
    sample_top_k_top_p,
    apply_token_bitmask,
)


def portable_kernels() -> tuple[Kernel, ...]:
    """Every op that has a portable kernel; ``linear`` up to ``MAX_ROWS`` rows."""
    return (
        *(
            Kernel(
                op=fn.__name__,
                name=f"triton_{fn.__name__}",
                fn=fn,
                tier=Tier.PORTABLE,
                supports=supports,
            )
            for fn in _FUNCTIONS
        ),
        Kernel(
            op="linear",
            name="triton_linear",
            fn=linear,
            tier=Tier.PORTABLE,
            supports=supports,
            max_rows=MAX_ROWS,
        ),
    )
