"""Ops of this backend as records of the contract: CANN's by choice first, then core's in Triton."""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

from tupelo.ops import Kernel, OpCall, Tier
from tupelo.ops.trial import Trials
from tupelo.specs import NO_QUANT
from tupelo_npu import calls, npu_ops
from tupelo_npu.options import Options

logger = logging.getLogger(__name__)

DTYPES = ("bfloat16", "float16", "float32")
MOST_EXPERTS = 1024
"""Of one grouped product, which takes two at least."""

OPS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "rms_norm": (npu_ops.rms_norm, ("npu_rms_norm",)),
    "add_rms_norm": (npu_ops.add_rms_norm, ("npu_add_rms_norm",)),
    "all_reduce_add_norm": (npu_ops.all_reduce_add_norm, ("npu_add_rms_norm",)),
    "rope": (npu_ops.rope, ("npu_rotary_mul",)),
    "norm_rope_qkv": (npu_ops.norm_rope_qkv, ("npu_rms_norm", "npu_rotary_mul")),
    "silu_mul": (npu_ops.silu_mul, ("npu_swiglu",)),
    "gelu_mul": (npu_ops.gelu_mul, ("npu_geglu",)),
    "embedding": (npu_ops.embedding, ()),
    "linear": (npu_ops.linear, ()),
    "add_norm_linear": (npu_ops.add_norm_linear, ("npu_rms_norm", "npu_add_rms_norm")),
    "gated_mlp": (npu_ops.gated_mlp, ("npu_swiglu", "npu_geglu")),
    "mlp": (npu_ops.mlp, ()),
    "moe_route": (npu_ops.moe_route, ("npu_moe_gating_top_k_softmax", "npu_moe_gating_top_k")),
    "moe_experts": (
        npu_ops.moe_experts,
        (
            *("npu_moe_init_routing_v2", "npu_grouped_matmul", "npu_moe_finalize_routing"),
            *("npu_swiglu", "npu_geglu"),
        ),
    ),
}
"""By op: the function, and the operators of torch-npu that it calls."""


def has_triton() -> bool:
    """Whether there is a Triton to compile core's kernels with."""
    return importlib.util.find_spec("triton") is not None


def npu_kernels(options: Options, trials: Trials) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """Kernels in order of preference, each tried before it serves, and why CANN's are missing."""
    kernels: list[Kernel] = []
    refused: list[str] = []
    for op, (fn, names) in OPS.items() if options.vendor else ():
        missing = calls.lacking(*names)
        if missing:
            refused.append(f"{op}: this torch-npu has no {missing}")
            continue
        name = f"npu_{op}"
        kernels.append(Kernel(op=op, name=name, fn=fn, tier=Tier.VENDOR, supports=supports))
    if options.triton and has_triton():
        kernels += _portable(refused)
    return trials.tried(kernels), tuple(refused)


def supports(call: OpCall) -> str | None:
    """None if CANN's kernels can serve a call, else the reason why not."""
    if call.dtype not in DTYPES:
        return f"computes in {', '.join(DTYPES)}, not {call.dtype}"
    if call.scheme != NO_QUANT:
        return f"reads plain weights, not {call.scheme.name}"
    if call.op == "moe_experts" and not 2 <= call.shape[0] <= MOST_EXPERTS:
        return f"has products of 2 to {MOST_EXPERTS} experts, not of {call.shape[0]}"
    return None


def _portable(refused: list[str]) -> tuple[Kernel, ...]:
    """Core's kernels in Triton; none, with the reason, where the Triton that is there lacks what
    they are written in."""
    try:
        from tupelo.triton.kernels import portable_kernels

        return tuple(portable_kernels())
    except Exception as error:  # a Triton of a vendor's raises what it lacks in its own ways
        reason = f"core's Triton kernels: {type(error).__name__}: {error}"
        logger.warning("not used: %s", reason)
        refused.append(reason)
        return ()
