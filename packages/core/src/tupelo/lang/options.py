"""How tokens are chosen, as programs say it: names and defaults are those of SGLang's language.

A ``Sampling`` holds only what somebody set, under the names of ``/generate``; so a backend can tell
what it is asked for from what nobody mentioned.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from tupelo.errors import ProgramError

Sampling = dict[str, Any]

GRAMMARS = ("regex", "json_schema", "ebnf")

SAMPLING_NAMES = frozenset(
    {
        "max_new_tokens",
        "min_new_tokens",
        "n",
        "stop",
        "stop_token_ids",
        "stop_regex",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "ignore_eos",
        "sampling_seed",
        *GRAMMARS,
    }
)
"""What ``sampling_params`` of ``/generate`` takes of these; the rest stands beside them."""

LOGPROB_NAMES = frozenset(
    {"return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs"}
)

RUN_DEFAULTS: Sampling = {"max_new_tokens": 128}
"""What holds for a call that nothing else is said of, as in SGLang."""


class SamplingWords(TypedDict, total=False):
    """What ``gen`` takes of sampling, beside ``max_tokens``; None leaves it to the run.

    ``n`` samples: above 1 the variable is a list, and the first joins the text. ``seed``: with it,
    the same call gives the same. The rest is as ``/generate`` has it.
    """

    min_tokens: int | None
    n: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    stop_regex: str | Sequence[str] | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    ignore_eos: bool | None
    seed: int | None
    return_logprob: bool | None
    logprob_start_len: int | None
    top_logprobs_num: int | None
    return_text_in_logprobs: bool | None


_WORDS = {"min_tokens": "min_new_tokens", "seed": "sampling_seed"}

RUN_OPTIONS = frozenset(SamplingWords.__annotations__) - {"n", "min_tokens"} | {"max_new_tokens"}
"""What ``run`` and ``run_batch`` take for every call that does not say otherwise."""


def sampling_of(max_tokens: int | None, words: Mapping[str, Any]) -> Sampling:
    """What ``gen`` was given, under the names of ``/generate``.

    Raises:
        ProgramError: a word that means nothing.
    """
    for name in words:
        if name not in SamplingWords.__annotations__:
            raise ProgramError(f"gen() takes no {name!r}")
    return under_native_names({"max_new_tokens": max_tokens, **words})


def under_native_names(words: Mapping[str, Any]) -> Sampling:
    """Those words that somebody gave, as ``/generate`` calls them."""
    return {
        _WORDS.get(name, name): list(value) if isinstance(value, tuple) else value
        for name, value in given(words).items()
    }


def given(words: Mapping[str, Any]) -> dict[str, Any]:
    """Those words that somebody gave."""
    return {name: value for name, value in words.items() if value is not None}


def split(sampling: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``sampling_params`` of ``/generate``, and what stands beside them."""
    params = {name: value for name, value in sampling.items() if name in SAMPLING_NAMES}
    beside = {name: value for name, value in sampling.items() if name in LOGPROB_NAMES}
    return params, beside
