"""What grammars learn of a tokenizer: bytes, special tokens, ends, canonical ids."""

from pathlib import Path
from typing import Any

import pytest
from tests.security.model import MERGES, SPECIAL, write_byte_model
from tests.unit.grammar.walks import Walker
from tests.unit.text.conftest import (
    byte_level_metadata,
    sentencepiece_metadata,
    sentencepiece_models,
    tokenizer_of,
)

from tupelo.errors import InvalidRequest
from tupelo.grammar import GrammarOptions, Vocabulary, read_vocabulary
from tupelo.grammar.backends import open_backend
from tupelo.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["the other", " the", "hello\n  world", '{"a": 1}', "日本 naïve 🙂", "x" * 50]


def vocabulary_of(tokenizer: Tokenizer, **more: Any) -> Vocabulary:
    return read_vocabulary(tokenizer, more.pop("vocab_size", tokenizer.vocab_size), **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=["folder", "gguf bytes", "gguf pieces", "gguf pieces, no prefix"])
def small(request: pytest.FixtureRequest, folder: Path) -> Tokenizer:
    if request.param == "folder":
        return load_tokenizer(folder)
    if request.param == "gguf bytes":
        return tokenizer_of(byte_level_metadata())
    model = sentencepiece_models()["no" in request.param]
    return tokenizer_of(sentencepiece_metadata(model) | {"tokenizer.ggml.eos_token_id": 2})


def test_tokens_are_the_bytes_that_they_add(small: Tokenizer) -> None:
    vocabulary = vocabulary_of(small)
    assert len(vocabulary.tokens) == small.vocab_size
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert b"".join(vocabulary.tokens[i] for i in ids) == text.encode()


def test_text_in_the_middle_gets_nothing_that_belongs_at_a_beginning(small: Tokenizer) -> None:
    vocabulary = vocabulary_of(small)
    whole = small.encode("the other", add_special_tokens=False)
    head = vocabulary.encode("the")
    assert vocabulary.tokens[head[0]][:1] == b"t"
    assert len(vocabulary.encode("the other")) <= len(whole) + 1


def test_ends_and_special_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocab_size, (2, 0))
    assert vocabulary.eos_ids == (2, 0)
    assert vocabulary.special_ids == (0, 1, 2)
    walker = Walker(open_backend(vocabulary, GrammarOptions()), vocabulary)
    grammar = walker.shared("regex", "[a-z<|_>]*")
    assert walker.accepts(grammar.matcher(), "abc")
    matcher = grammar.matcher()
    matcher.accept(1)
    assert matcher.error, f"{SPECIAL[1]} is no text, although its letters would be"


def test_logits_may_be_wider_or_narrower_than_the_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    for width in (tokenizer.vocab_size + 45, tokenizer.vocab_size - len(MERGES)):
        vocabulary = read_vocabulary(tokenizer, width, (0,))
        walker = Walker(open_backend(vocabulary, GrammarOptions()), vocabulary)
        allowed = walker.allowed(walker.shared("regex", r"[ -~]*").matcher())
        assert allowed.max() < min(width, tokenizer.vocab_size)
        assert walker.accepts(walker.shared("choice", '["the", "rain"]').matcher(), "rain")


def test_a_tokenizer_of_words_is_refused(tmp_path: Path) -> None:
    from tests.system.tiny_model import write_tiny_model

    words = load_tokenizer(write_tiny_model(tmp_path))
    with pytest.raises(InvalidRequest, match="constrained"):
        read_vocabulary(words, words.vocab_size)


def test_a_model_without_an_end_is_refused() -> None:
    tokenizer = tokenizer_of(byte_level_metadata())
    tokenizer.eos_token_ids = ()
    with pytest.raises(InvalidRequest, match="end token"):
        read_vocabulary(tokenizer, tokenizer.vocab_size)
    assert read_vocabulary(tokenizer, tokenizer.vocab_size, (1,)).eos_ids == (1,)
