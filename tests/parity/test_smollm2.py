"""The demo model from its quantised GGUF: greedy tokens equal transformers' in float32."""

from pathlib import Path

import torch
from tests.parity.harness import Driver
from transformers import AutoTokenizer, PreTrainedModel

from tupelo.checkpoint import open_checkpoint
from tupelo.models import build_model
from tupelo.weights import load_weights

NEW_TOKENS = 16
TOLERANCE = 5e-4
"""Logits of size 10 to 20 after 30 layers of float32 in another order of summation."""

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Once upon a time, in a small village by the sea, there lived an old fisherman who",
)


def test_greedy_tokens_equal_transformers(demo_gguf: Path, smollm2: PreTrainedModel) -> None:
    checkpoint = open_checkpoint(demo_gguf)
    model = build_model(checkpoint.config, max_length=128)
    load_weights(model, checkpoint, device="cpu", progress=False)
    tokenizer = AutoTokenizer.from_pretrained(demo_gguf.parent, gguf_file=demo_gguf.name)
    prompts = [tokenizer(text).input_ids for text in PROMPTS]
    rows = Driver(model, page_size=16).generate(prompts, new_tokens=NEW_TOKENS)
    for row in rows:
        with torch.inference_mode():
            expected = smollm2(torch.tensor([row.ids[:-1]])).logits[0]
        assert row.generated == expected[row.num_prompt - 1 :].argmax(-1).tolist()
        torch.testing.assert_close(torch.cat(row.logits), expected, atol=TOLERANCE, rtol=0)
