"""The demo model's vocabulary, and llguidance over it."""

from pathlib import Path

import pytest
from tests.unit.grammar.walks import Walker

from tupelo.grammar import GrammarOptions, Vocabulary, read_vocabulary
from tupelo.grammar.backends import open_backend
from tupelo.text.tokenizer import Tokenizer, load_tokenizer

VOCAB_SIZE = 49_184
"""More than the tokenizer has, as models pad their logits."""


@pytest.fixture(scope="session")
def tokenizer(demo_gguf: Path) -> Tokenizer:
    return load_tokenizer(demo_gguf)


@pytest.fixture(scope="session")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return read_vocabulary(tokenizer, VOCAB_SIZE, (2,))


@pytest.fixture(scope="session")
def walker(vocabulary: Vocabulary) -> Walker:
    return Walker(open_backend(vocabulary, GrammarOptions()), vocabulary)
