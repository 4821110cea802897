"""Programs with a language model in them. Importing this package loads no torch.

::

    import tupelo as tp

    @tp.function
    def capital(s, country):
        s += tp.user(f"What is the capital of {country}?")
        s += tp.assistant(tp.gen("answer", max_tokens=16, temperature=0))

    tp.set_default_backend(tp.Runtime(endpoint="http://localhost:30000"))
    print(capital.run(country="France")["answer"])
"""

from tupelo.lang.backends.anthropic import Anthropic
from tupelo.lang.backends.endpoint import RuntimeEndpoint
from tupelo.lang.backends.engine import EngineBackend
from tupelo.lang.backends.litellm import LiteLLM
from tupelo.lang.backends.openai import OpenAI
from tupelo.lang.choices import (
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from tupelo.lang.defaults import flush_cache, get_server_info, set_default_backend
from tupelo.lang.expressions import (
    assistant,
    assistant_begin,
    assistant_end,
    gen,
    gen_int,
    gen_string,
    image,
    select,
    separate_reasoning,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
    video,
)
from tupelo.lang.program import Program, function
from tupelo.lang.runtime import Runtime
from tupelo.lang.state import ProgramState, ProgramStateGroup

__all__ = [
    "Anthropic",
    "EngineBackend",
    "LiteLLM",
    "OpenAI",
    "Program",
    "ProgramState",
    "ProgramStateGroup",
    "Runtime",
    "RuntimeEndpoint",
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
