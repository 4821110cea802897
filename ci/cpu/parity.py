#!/usr/bin/env python3
"""Real weights against transformers, fp32: greedy tokens, prompt log-probabilities, named
combinations.

  python ci/cpu/parity.py                      the demo model: 50 prompts x 64 tokens, six
  combinations python ci/cpu/parity.py --gemma FILE.gguf    also Gemma 3 270M: 20 prompts x 32
  tokens

A token may differ only where the reference's two best logits are closer than ``TIE``; such places
are printed, and at most one token in a thousand may be one. Exit code 1 if anything differs
otherwise.
"""

import argparse
import itertools
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tupelo import Engine
from tupelo.checkpoint import demo_model

TIE = 5e-4
LOGPROB_TOLERANCE = 1e-3

COMBINATIONS: dict[str, dict[str, Any]] = {
    "plain": {"disable_radix_cache": True, "chunked_prefill_size": -1},
    "cache": {"chunked_prefill_size": 512},
    "small chunks, pages of one": {"chunked_prefill_size": 16, "page_size": 1},
    "two steps in flight": {"pipeline_depth": 2, "chunked_prefill_size": 64},
    "two in flight, pages of one, no cache": {
        "pipeline_depth": 2,
        "page_size": 1,
        "disable_radix_cache": True,
    },
    "one request at a time": {"max_running_requests": 1},
}

SUBJECTS = ("a lighthouse", "the river", "my grandmother", "an old clock", "the night train")
OPENINGS = (
    "Once upon a time there was {}, and",
    "def count_words(text):\n    # {} is only a name here\n",
    "Question: what can you tell me about {}?\nAnswer:",
    "1. First, think of {}.\n2. Then",
    "The history of {} begins in the year",
    "<|im_start|>user\nWrite two sentences about {}.<|im_end|>\n<|im_start|>assistant\n",
    "Dear editor, I am writing to complain about {}. Last week,",
    "{} {} {} {}",
    "La storia di {} comincia con",
    "Translate to French: I have seen {} today. ->",
)


@dataclass(frozen=True)
class Reference:
    """What transformers says of one prompt: greedy ids, their top-2 gaps, prompt
    log-probabilities."""

    prompt: list[int]
    tokens: list[int]
    gaps: list[float]
    prompt_logprobs: list[float]


def texts(count: int) -> list[str]:
    """``count`` prompts of many lengths, always the same."""
    pairs = list(itertools.product(OPENINGS, SUBJECTS))
    random.Random(5).shuffle(pairs)
    made = [opening.format(*[subject] * 4) for opening, subject in pairs[:count]]
    return [" ".join([text] * (1 + 4 * (i % 3 == 2))) for i, text in enumerate(made)]


@torch.inference_mode()
def reference(model: Any, prompt: list[int], num_tokens: int) -> Reference:
    """Greedy generation past any end token, with the gap between the two best at each step."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = [logits[0].float().topk(2).values for logits in out.logits]
    logprobs = model(ids).logits[0].float().log_softmax(-1)
    chosen = [float(logprobs[i, token]) for i, token in enumerate(prompt[1:])]
    return Reference(
        prompt, out.sequences[0, len(prompt) :].tolist(), [float(b[0] - b[1]) for b in best], chosen
    )


def compare(
    name: str, replies: list[dict[str, Any]], references: list[Reference]
) -> tuple[int, int]:
    """Print what differs; returns tokens compared and ties. Exits on a real difference."""
    compared = ties = 0
    for number, (reply, want) in enumerate(zip(replies, references, strict=True)):
        got = reply["output_ids"]
        assert len(got) == len(want.tokens)
        for place, (a, b) in enumerate(zip(got, want.tokens, strict=True)):
            compared += 1
            if a != b:
                gap = want.gaps[place]
                print(f"  {name}: prompt {number} token {place}: {a} for {b}, gap {gap:.1e}")
                if gap >= TIE:
                    sys.exit(f"{name}: a token differs where the reference is sure of it")
                ties += 1
                break  # from here on the two write different texts
    return compared, ties


def check(path: Path, count: int, num_tokens: int, combinations: dict[str, dict[str, Any]]) -> None:
    """One model: references once, then every combination."""
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    with Engine(model=str(path), max_total_tokens=16384, dtype="float32") as engine:
        tokenizer = engine.tokenizer
        assert tokenizer is not None
        prompts = [tokenizer.encode(text) for text in texts(count)]
    references = [reference(model, prompt, num_tokens) for prompt in prompts]
    del model
    params = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    worst = 0.0
    for name, options in combinations.items():
        settings = {"max_total_tokens": 16384, "dtype": "float32", "max_running_requests": 32}
        with Engine(model=str(path), **(settings | options)) as engine:
            replies = engine.generate(
                input_ids=prompts, sampling_params=params, return_logprob=True, logprob_start_len=0
            )
        compared, ties = compare(name, replies, references)
        for reply, want in zip(replies, references, strict=True):
            rows = reply["meta_info"]["input_token_logprobs"][1:]
            for row, value in zip(rows, want.prompt_logprobs, strict=True):
                worst = max(worst, abs(row[0] - value))
        print(f"{path.stem}: {name}: {compared} tokens equal but for {ties} ties", flush=True)
        if ties > compared / 1000:
            sys.exit(f"{name}: {ties} ties in {compared} tokens; at most one in 1,000")
    print(f"{path.stem}: largest difference of a prompt log-probability {worst:.1e}")
    if worst > LOGPROB_TOLERANCE:
        sys.exit(f"prompt log-probabilities differ by more than {LOGPROB_TOLERANCE}")


def main() -> None:
    """Run the checks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gemma", type=Path, help="GGUF file of Gemma 3 270M")
    parser.add_argument("--prompts", type=int, default=50)
    arguments = parser.parse_args()
    check(demo_model(), arguments.prompts, 64, COMBINATIONS)
    if arguments.gemma is not None:
        chosen = {name: COMBINATIONS[name] for name in ("plain", "two steps in flight")}
        check(arguments.gemma, 20, 32, chosen)


if __name__ == "__main__":
    main()
