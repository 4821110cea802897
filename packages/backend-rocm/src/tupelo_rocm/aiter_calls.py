"""What this backend calls of AITER, AMD's library of kernels: where, and with which arguments.

AITER moves its functions from release to release, and changes what they take. A function is looked
for where the releases that are known have it, and is used only if it takes the arguments that it
will be given; otherwise the reason is told, and something else serves.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tupelo_rocm.vendor import installed

PACKAGE = "amd-aiter"


class AiterError(Exception):
    """A function of AITER's cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Call:
    """One function of AITER's.

    Attributes:
        name: of the function. modules: where it is, in the newest release first.
        arguments: what it is called with, all by name.
    """

    name: str
    modules: tuple[str, ...]
    arguments: tuple[str, ...]


CALLS: dict[str, Call] = {
    call.name: call
    for call in (
        Call(
            "unified_attention",
            (
                "aiter.ops.triton.attention.unified_attention",
                "aiter.ops.triton.unified_attention",
            ),
            (
                *("q", "k", "v", "out", "cu_seqlens_q", "max_seqlen_q", "seqused_k"),
                *("max_seqlen_k", "softmax_scale", "causal", "window_size", "block_table"),
                *("softcap", "q_descale", "k_descale", "v_descale", "sinks"),
            ),
        ),
        Call(
            "rms_norm",
            ("aiter.ops.triton.normalization.rmsnorm", "aiter.ops.triton.rmsnorm"),
            ("input", "weight", "epsilon"),
        ),
        Call(
            "rmsnorm2d_fwd_with_add",
            ("aiter.ops.triton.normalization.rmsnorm", "aiter.ops.triton.rmsnorm"),
            ("out", "input", "residual_in", "residual_out", "weight", "epsilon"),
        ),
        Call(
            "gemm_a16w16",
            ("aiter.ops.triton.gemm.basic.gemm_a16w16", "aiter.ops.triton.gemm_a16w16"),
            ("x", "w", "bias", "dtype"),
        ),
        Call(
            "fused_moe",
            ("aiter.ops.triton.moe.moe_op", "aiter.ops.triton.moe_op"),
            (
                *("A", "B", "C", "A_scale", "B_scale", "B_zp", "topk_weights", "topk_ids"),
                *("sorted_token_ids", "expert_ids", "num_tokens_post_padded"),
                *("mul_routed_weight", "top_k", "compute_type", "use_fp8_w8a8"),
                *("use_int8_w8a16", "use_int4_w4a16", "config"),
            ),
        ),
        Call(
            "get_optimal_moe_config",
            ("aiter.ops.triton.utils.moe_config_utils",),
            ("dtype", "M"),
        ),
        Call(
            "paged_attention_v1",
            ("aiter.ops.attention",),
            (
                *("out", "workspace_buffer", "query", "key_cache", "value_cache", "scale"),
                *("block_tables", "cu_query_lens", "context_lens", "max_context_len"),
                *("alibi_slopes", "kv_cache_dtype", "kv_cache_layout", "logits_soft_cap"),
                *("k_scale", "v_scale", "fp8_out_scale", "partition_size", "sliding_window"),
            ),
        ),
        Call(
            "flash_attn_varlen_func",
            ("aiter.ops.mha",),
            (
                *("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q"),
                *("max_seqlen_k", "softmax_scale", "logits_soft_cap", "causal", "window_size"),
            ),
        ),
    )
}


def load(name: str) -> Callable[..., Any]:
    """A function of ``CALLS``, imported and checked.

    Raises:
        AiterError: it is not installed, cannot be imported, or takes other arguments.
    """
    call = CALLS[name]
    release = installed(PACKAGE)
    if not release:
        raise AiterError(f"{PACKAGE} is not installed")
    reasons = []
    for module in call.modules:
        try:
            fn: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except Exception as error:  # its import builds and opens much, and raises what that raises
            first = str(error).strip().splitlines() or [""]
            reasons.append(f"{type(error).__name__}: {first[0]}")
            continue
        problem = misfit(inspect.signature(fn), call.arguments)
        if problem:
            raise AiterError(f"{name} of {PACKAGE} {release} {problem}")
        return fn
    raise AiterError(f"{name} of {PACKAGE} {release} cannot be imported: {reasons[-1]}")


def misfit(signature: inspect.Signature, arguments: tuple[str, ...]) -> str:
    """Why a function of this signature cannot be called with these arguments; "" if it can."""
    try:
        signature.bind(**dict.fromkeys(arguments))
    except TypeError as error:
        return f"cannot be called as this backend does: {error}"
    return ""
