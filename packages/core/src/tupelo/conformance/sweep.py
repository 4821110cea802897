"""Requests of every kind, in steps of many sizes: after them, an engine must have built nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tupelo.engine import Engine


class Kind(NamedTuple):
    """What is asked of a request: sampling parameters, and arguments of ``Engine.generate``."""

    params: dict[str, Any]
    wanted: dict[str, Any]


KINDS: dict[str, Kind] = {
    "greedy": Kind({"temperature": 0}, {}),
    "sampled": Kind({"temperature": 1.1}, {}),
    "filtered": Kind({"temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.02, "seed": 3}, {}),
    "penalised": Kind({"temperature": 0, "repetition_penalty": 1.2, "presence_penalty": 0.3}, {}),
    "penalised_and_sampled": Kind({"frequency_penalty": 0.4, "top_p": 0.9}, {}),
    "biased": Kind({"temperature": 0, "logit_bias": {5: 2.0, 7: -100.0}}, {}),
    "held_back": Kind({"min_new_tokens": 2, "stop_token_ids": [9]}, {}),
    "scored": Kind({"temperature": 0}, {"return_logprob": True, "top_logprobs_num": 3}),
    "prompt_scored": Kind(
        {"temperature": 0}, {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    ),
    "several": Kind({"n": 3, "seed": 1}, {}),
    "constrained": Kind({"temperature": 0, "regex": "[a-z ]{1,40}", "ignore_eos": False}, {}),
}
"""Every feature of a step, alone and with another; ``constrained`` needs a tokenizer."""


def run_sweep(
    engine: Engine,
    lengths: Sequence[int],
    counts: Sequence[int],
    *,
    new_tokens: int,
    kinds: Sequence[str] = tuple(KINDS),
) -> int:
    """Run every kind at every number of requests, each with a prompt of each length in turn.

    Args:
        lengths: tokens of the prompts. counts: requests at once.

    Returns:
        Kernels and graphs built since the engine was ready.
    """
    random = np.random.default_rng(17)
    for name in kinds:
        if name == "constrained" and engine.tokenizer is None:
            continue
        kind = KINDS[name]
        for count in counts:
            engine.flush_cache()
            sizes = [lengths[i % len(lengths)] for i in range(count)]
            engine.generate(
                input_ids=[
                    random.integers(0, engine.info.vocab_size, size).tolist() for size in sizes
                ],
                sampling_params={"max_new_tokens": new_tokens, "ignore_eos": True} | kind.params,
                **kind.wanted,
            )
    return int(engine.stats()["builds_after_ready"])
