"""How tokens are chosen, as programs say it: names and defaults are those of SGLang's language.

A ``Sampling`` holds only what somebody set, under the names of ``/generate``; so a backend can tell
what it is asked for from what nobody mentioned.
"""

from collections.abc import Mapping
from typing import Any

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


def given(values: Mapping[str, Any]) -> Sampling:
    """Those values that somebody set."""
    return {name: value for name, value in values.items() if value is not None}


def split(sampling: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``sampling_params`` of ``/generate``, and what stands beside them."""
    params = {name: value for name, value in sampling.items() if name in SAMPLING_NAMES}
    beside = {name: value for name, value in sampling.items() if name in LOGPROB_NAMES}
    return params, beside
