"""What this backend calls of intel-extension-for-pytorch, where a user names it: upstream archived
it in 2026, and an older stack may still have it."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tupelo_xpu.vendor import IPEX, installed
from tupelo_xpu.vllm_calls import LibraryError

PACKAGE = "intel_extension_for_pytorch"


@dataclass(frozen=True, slots=True)
class Call:
    """One function.

    Attributes:
        module: where it is. path: of it there. arguments: what it is called with, all by name.
    """

    module: str
    path: tuple[str, ...]
    arguments: tuple[str, ...]


CALLS: dict[str, Call] = {
    "rms_norm": Call(
        f"{PACKAGE}.llm.functional", ("rms_norm",), ("hidden_states", "weight", "eps")
    ),
    "reshape_and_cache_flash": Call(
        f"{PACKAGE}.llm.modules",
        ("PagedAttention", "reshape_and_cache_flash"),
        ("key", "value", "key_cache", "value_cache", "slot_mapping"),
    ),
    "flash_attn_varlen_func": Call(
        f"{PACKAGE}.llm.modules",
        ("PagedAttention", "flash_attn_varlen_func"),
        (
            *("output", "query", "key_cache", "value_cache", "cu_seqlens_q", "cu_seqlens_kv"),
            *("max_seqlen_q", "max_seqlen_kv", "scale", "is_cusal", "block_tables"),
            *("alibi_slopes", "window_size_left", "window_size_right", "softcap"),
        ),
    ),
}
"""``is_cusal`` is upstream's spelling."""


def load(name: str) -> Callable[..., Any]:
    """A function of ``CALLS``, imported and checked.

    Raises:
        LibraryError: it is not installed, cannot be imported, or takes other arguments.
    """
    call, release = CALLS[name], installed(IPEX)
    if not release:
        raise LibraryError(f"{IPEX} is not installed")
    try:
        fn: Any = importlib.import_module(call.module)
        for part in call.path:
            fn = getattr(fn, part)
    except (
        Exception
    ) as error:  # its import checks the torch that it finds, and raises what that does
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise LibraryError(f"{name} of {IPEX} {release} cannot be imported: {first}") from error
    problem = misfit(inspect.signature(fn), call.arguments)
    if problem:
        raise LibraryError(f"{name} of {IPEX} {release} {problem}")
    checked: Callable[..., Any] = fn
    return checked


def misfit(signature: inspect.Signature, arguments: tuple[str, ...]) -> str:
    """Why a function of this signature cannot be called with these arguments; "" if it can."""
    try:
        signature.bind(**dict.fromkeys(arguments))
    except TypeError as error:
        return f"cannot be called as this backend does: {error}"
    return ""
