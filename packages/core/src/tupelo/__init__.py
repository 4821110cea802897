"""Tupelo: a serving framework for large language models. Importing this package loads no torch."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Anthropic",
    "Engine",
    "EngineConfig",
    "LiteLLM",
    "OpenAI",
    "Runtime",
    "RuntimeEndpoint",
    "SamplingParams",
    "TupeloError",
    "__version__",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "greedy_token_selection",
    "image",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
]

if TYPE_CHECKING:
    from tupelo.config import EngineConfig
    from tupelo.engine import Engine
    from tupelo.errors import TupeloError
    from tupelo.lang import (
        Anthropic,
        LiteLLM,
        OpenAI,
        Runtime,
        RuntimeEndpoint,
        assistant,
        assistant_begin,
        assistant_end,
        flush_cache,
        function,
        gen,
        gen_int,
        gen_string,
        get_server_info,
        greedy_token_selection,
        image,
        select,
        separate_reasoning,
        set_default_backend,
        system,
        system_begin,
        system_end,
        token_length_normalized,
        unconditional_likelihood_normalized,
        user,
        user_begin,
        user_end,
        video,
    )
    from tupelo.request import SamplingParams

_HOMES = {
    "Engine": "tupelo.engine",
    "EngineConfig": "tupelo.config",
    "SamplingParams": "tupelo.request",
    "TupeloError": "tupelo.errors",
}
_HOMES |= {name: "tupelo.lang" for name in __all__ if name not in (*_HOMES, "__version__")}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that ``import tupelo`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tupelo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
