"""Small tokenizers that need no file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tupelo.text.gguf_facts import facts_from_gguf
from tupelo.text.gguf_vocab import tokenizer_from_gguf
from tupelo.text.templates import TemplateRenderer
from tupelo.text.token_bytes import byte_of_char
from tupelo.text.tokenizer import Tokenizer

SEEDED = settings(deadline=None, derandomize=True)
"""For hypothesis: the same examples in every run, and no clock."""

MERGES = [
    "t h",
    "th e",
    "\u0120 the",
    "e r",
    "h er",
    "\u00e6 \u0139",
    "l l",
    "ll o",
    "\u0120 \u0120",
]
SPECIAL = ["<|end|>", "<|user|>"]


def byte_level_metadata() -> dict[str, Any]:
    """GGUF metadata of a byte-level tokenizer: 256 bytes, a few merges, two special tokens."""
    alphabet = sorted(byte_of_char(), key=byte_of_char().__getitem__)
    tokens = [*SPECIAL, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.eos_token_id": 0,
    }


def sentencepiece_models() -> list[dict[str, Any]]:
    """Two tiny SentencePiece models with the ids that sentencepiece itself gives."""
    file = Path(__file__).parent / "data" / "sentencepiece_tiny.json"
    models: list[dict[str, Any]] = json.loads(file.read_text())["models"]
    return models


def sentencepiece_metadata(model: dict[str, Any]) -> dict[str, Any]:
    """GGUF metadata of one of ``sentencepiece_models``."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": model["tokens"],
        "tokenizer.ggml.scores": model["scores"],
        "tokenizer.ggml.token_type": model["types"],
        "tokenizer.ggml.add_space_prefix": model["add_space_prefix"],
    }


def tokenizer_of(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer(tokenizer_from_gguf(metadata), facts_from_gguf(metadata))


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    return tokenizer_of(byte_level_metadata())


@pytest.fixture(scope="session", params=[0, 1], ids=["space-prefix", "no-prefix"])
def space_mark(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_of(sentencepiece_metadata(sentencepiece_models()[request.param]))


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    renderer = TemplateRenderer(time_limit_s=10.0)
    yield renderer
    renderer.close()
