"""Ops of this backend as records of the contract: core's Triton kernels, and what is composed of
them and of cuBLAS."""

import importlib.util
from collections.abc import Callable
from typing import Any

from tupelo.ops import Kernel, OpCall, Tier


def cuda_kernels() -> tuple[Kernel, ...]:
    """Kernels in order of preference within a tier; none where triton is missing."""
    if importlib.util.find_spec("triton") is None:
        return ()
    from tupelo.triton.activation import gelu_mul, silu_mul
    from tupelo.triton.norm import add_rms_norm, rms_norm
    from tupelo.triton.rope import norm_rope_qkv, rope
    from tupelo_cuda.fused import add_norm_linear, gated_mlp

    portable: dict[str, Callable[..., Any]] = {
        "rms_norm": rms_norm,
        "add_rms_norm": add_rms_norm,
        "rope": rope,
        "norm_rope_qkv": norm_rope_qkv,
        "silu_mul": silu_mul,
        "gelu_mul": gelu_mul,
        "add_norm_linear": add_norm_linear,
        "gated_mlp": gated_mlp,
    }
    return tuple(
        Kernel(op=op, name=f"triton_{op}", fn=fn, tier=Tier.PORTABLE, supports=plain_weights)
        for op, fn in portable.items()
    )


def plain_weights(call: OpCall) -> str | None:
    """Everything but quantised weights."""
    if call.scheme.name != "none":
        return f"reads plain weights, not {call.scheme.name}"
    return None
