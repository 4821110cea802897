"""The native kernels as records of the contract."""

from tupelo.backend import Kernel, Tier
from tupelo.ops import OpCall
from tupelo_cpu.elementwise import MLP_CODES, ElementwiseOps, supports
from tupelo_cpu.linear import LinearOps
from tupelo_cpu.masks import apply_token_bitmask, supports_bitmask
from tupelo_cpu.moe import moe_experts
from tupelo_cpu.native.bindings import NativeLibrary


def native_kernels(library: NativeLibrary) -> tuple[Kernel, ...]:
    """Every op that the library serves, in float32; other types fall to the reference."""
    plain, linear = ElementwiseOps(library), LinearOps(library)
    functions = (
        plain.rms_norm,
        plain.add_rms_norm,
        plain.silu_mul,
        plain.gelu_mul,
        plain.norm_rope_qkv,
    )
    packed = (linear.linear, linear.gated_mlp, linear.add_norm_linear)
    pack = linear.pack
    by_token = Kernel(
        op="moe_experts", name="moe_experts_by_token", fn=moe_experts, supports=supports
    )
    masks = Kernel(
        op="apply_token_bitmask",
        name="bitmask_by_byte",
        fn=apply_token_bitmask,
        tier=Tier.VENDOR,
        supports=supports_bitmask,
    )
    return (
        tuple(
            Kernel(
                op=fn.__name__,
                name=f"native_{fn.__name__}",
                fn=fn,
                tier=Tier.VENDOR,
                supports=supports,
            )
            for fn in functions
        )
        + tuple(
            Kernel(
                op=fn.__name__,
                name=f"native_{fn.__name__}",
                fn=fn,
                tier=Tier.VENDOR,
                supports=supports,
                pack=pack,
            )
            for fn in packed
        )
        + (
            Kernel(
                op="mlp",
                name="native_mlp",
                fn=linear.mlp,
                tier=Tier.VENDOR,
                supports=_supports_mlp,
                pack=pack,
            ),
            by_token,
            masks,
        )
    )


def _supports_mlp(call: OpCall) -> str | None:
    activation = dict(call.statics)["activation"]
    return supports(call) if activation in MLP_CODES else f"no activation {activation!r}"
