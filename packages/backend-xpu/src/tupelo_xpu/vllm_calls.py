"""What this backend calls of vllm-xpu-kernels: ops that its extensions register with torch.

They change what they take from release to release. An op is used only if its schema, as torch has
it once the extension is loaded, takes the arguments that it will be given; otherwise the reason is
told, and something else serves.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from tupelo_xpu.vendor import KERNELS, installed

PACKAGE = "vllm_xpu_kernels"


class LibraryError(Exception):
    """An op of a library cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Call:
    """One op.

    Attributes:
        extension: module of the package that registers it.
        namespace: where torch has it then.
        arguments: what it is called with, all by name.
    """

    extension: str
    namespace: str
    arguments: tuple[str, ...]


def _call(namespace: str, *arguments: str, extension: str = "") -> Call:
    return Call(extension or namespace, namespace, arguments)


CALLS: dict[str, Call] = {
    "rms_norm": _call("_C", "result", "input", "weight", "epsilon"),
    "fused_add_rms_norm": _call("_C", "input", "residual", "weight", "epsilon"),
    "silu_and_mul": _call("_C", "result", "input"),
    "gelu_tanh_and_mul": _call("_C", "out", "input"),
    "weak_ref_tensor": _call("_C", "input"),
    "reshape_and_cache_flash": _call(
        "_C_cache_ops",
        *("key", "value", "key_cache", "value_cache", "slot_mapping", "kv_cache_dtype"),
        *("k_scale", "v_scale"),
        extension="_C",
    ),
    "topk_softmax": _call(
        "_moe_C",
        *("topk_weights", "topk_indices", "token_expert_indices", "gating_output"),
        *("renormalize", "bias", "is_padding"),
    ),
    "remap_hidden_states": _call(
        "_moe_C",
        *("hidden_states", "hidden_states_scales", "remapped_hidden_states"),
        *("remapped_hidden_states_scales", "expert_map", "rows_per_expert"),
        *("unpermuted_row_to_permuted_row", "topk_ids", "total_experts_num", "local_experts_num"),
    ),
    "moe_gather": _call(
        "_moe_C",
        *("output", "moe_output", "topk_weights", "unpermuted_row_to_permuted_row", "num_experts"),
    ),
    "cutlass_grouped_gemm_interface": _call(
        "_xpu_C",
        *("ptr_A", "ptr_A_scale", "ptr_B", "ptr_B_scale", "ptr_bias", "ptr_D"),
        *("rows_per_expert", "N", "K", "num_experts"),
    ),
    "varlen_fwd": _call(
        "_vllm_fa2_C",
        *("q", "k", "v", "out", "cu_seqlens_q", "cu_seqlens_k", "seqused_k", "leftpad_k"),
        *("block_table", "alibi_slopes", "max_seqlen_q", "max_seqlen_k", "p_dropout", "q_scale"),
        *("k_scale", "v_scale", "softmax_scale", "softmax_sink", "zero_tensors", "is_causal"),
        *("window_size_left", "window_size_right", "softcap", "return_softmax", "gen"),
        *("num_splits", "mix_batch", "splits_per_seq", "work_list"),
    ),
}


def load(name: str) -> Callable[..., Any]:
    """An op of ``CALLS``, its extension loaded and its schema checked.

    Raises:
        LibraryError: it is not installed, cannot be loaded, or takes other arguments.
    """
    call, release = CALLS[name], installed(KERNELS)
    if not release:
        raise LibraryError(f"{KERNELS} is not installed")
    try:
        importlib.import_module(f"{PACKAGE}.{call.extension}")
        op: Callable[..., Any] = getattr(getattr(torch.ops, call.namespace), name).default
    except (ImportError, OSError, AttributeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise LibraryError(f"{name} of {KERNELS} {release} cannot be loaded: {first}") from error
    problem = misfit(_arguments(op), call.arguments)
    if problem:
        raise LibraryError(f"{name} of {KERNELS} {release} {problem}")
    return op


def misfit(known: Iterable[tuple[str, bool]], given: Iterable[str]) -> str:
    """Why an op cannot be called with these arguments; "" if it can.

    Args:
        known: the op's arguments, and whether each has a default.
    """
    names, given = dict(known), tuple(given)
    surplus = [name for name in given if name not in names]
    missing = [name for name, optional in names.items() if not optional and name not in given]
    told = [f"takes no {', '.join(surplus)}"] if surplus else []
    return " and ".join(told + ([f"needs {', '.join(missing)}"] if missing else []))


def _arguments(op: Any) -> list[tuple[str, bool]]:
    return [(a.name, a.has_default_value()) for a in op._schema.arguments]
