"""Every family through the engine: prompts in chunks, together, over prefixes that are cached."""

import random
from pathlib import Path

import pytest
import torch
from tests.parity.families import FAMILIES, VOCAB_SIZE, Family

import tupelo_cpu
from tupelo.engine import Engine

SHARED = 48
"""Tokens, three pages: beyond the windows, in the third of Llama 4's spans."""

FIRST = {family.architecture: family for family in reversed(FAMILIES)}


@pytest.mark.parametrize("family", FIRST.values(), ids=FIRST.keys())
@torch.inference_mode()
def test_cached_prefixes_change_no_token(family: Family, tmp_path: Path) -> None:
    reference = family.save(tmp_path)
    draw = random.Random(6)
    shared = [draw.randrange(3, VOCAB_SIZE) for _ in range(SHARED)]
    prompts = [[*shared, *(draw.randrange(3, VOCAB_SIZE) for _ in range(n))] for n in (1, 23)]
    params = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    with Engine(
        model=str(tmp_path), backend=tupelo_cpu.backend(), dtype="float32", chunked_prefill_size=16
    ) as engine:
        replies = engine.generate(input_ids=prompts, sampling_params=params)
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = [*prompt, *reply["output_ids"]]
        expected = reference(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert reply["output_ids"] == expected.tolist()
    assert sum(reply["meta_info"]["cached_tokens"] for reply in replies) >= SHARED
