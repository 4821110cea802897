"""Streaming detokenization equals one-shot decoding, however the ids are split."""

from collections.abc import Sequence

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.text.conftest import (
    SEEDED,
    byte_level_metadata,
    sentencepiece_metadata,
    sentencepiece_models,
    tokenizer_of,
)
from tokenizers import decoders, models

from tupelo.text.detokenize import IncrementalDetokenizer
from tupelo.text.gguf_vocab import tokenizer_from_gguf
from tupelo.text.tokenizer import Tokenizer, TokenizerFacts

BYTE_LEVEL = tokenizer_of(byte_level_metadata())
BYTE_LEVEL_BACKEND = tokenizer_from_gguf(byte_level_metadata())
PREFIXED, UNPREFIXED = (
    tokenizer_of(sentencepiece_metadata(model)) for model in sentencepiece_models()
)
RANDOM_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=8)


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=25)


def stream(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    cuts: Sequence[int] = (1,),
    *,
    prompt: Sequence[int] = (),
    skip: bool = True,
) -> list[str]:
    detokenizer = IncrementalDetokenizer(
        tokenizer, prompt_ids_tail=prompt, skip_special_tokens=skip
    )
    deltas, start, step = [], 0, 0
    while start < len(ids):
        end = start + cuts[step % len(cuts)]
        deltas.append(detokenizer.push(ids[start:end]))
        start, step = end, step + 1
    return [*deltas, detokenizer.flush()]


@SEEDED
@given(ids=ids_of(BYTE_LEVEL), cuts=CUTS, skip=st.booleans())
def test_any_ids_byte_level(ids: list[int], cuts: list[int], skip: bool) -> None:
    expected = BYTE_LEVEL_BACKEND.decode(ids, skip_special_tokens=skip)
    assert "".join(stream(BYTE_LEVEL, ids, cuts, skip=skip)) == expected
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("index", [0, 1], ids=["space-prefix", "no-prefix"])
@SEEDED
@given(data=st.data(), cuts=CUTS, skip=st.booleans())
def test_any_ids_byte_fallback(
    index: int, data: st.DataObject, cuts: list[int], skip: bool
) -> None:
    """The library shows every byte of a broken run as U+FFFD, so broken runs are left to ours."""
    tokenizer = (PREFIXED, UNPREFIXED)[index]
    backend = tokenizer_from_gguf(sentencepiece_metadata(sentencepiece_models()[index]))
    ids = data.draw(ids_of(tokenizer))
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(stream(tokenizer, ids, cuts, skip=skip)) == whole
    library = backend.decode(ids, skip_special_tokens=skip)
    if "\ufffd" not in library:
        assert whole == library


@SEEDED
@given(text=RANDOM_TEXT, cuts=CUTS)
def test_any_text_comes_back(text: str, cuts: list[int]) -> None:
    for tokenizer in (BYTE_LEVEL, PREFIXED, UNPREFIXED):
        ids = tokenizer.encode(text, add_special_tokens=False, parse_special=False)
        deltas = stream(tokenizer, ids, cuts)
        assert "".join(deltas) == text.replace(
            "\u2581", " " if tokenizer is not BYTE_LEVEL else "\u2581"
        )
        if "\ufffd" not in text:
            assert not any("\ufffd" in delta for delta in deltas)


@SEEDED
@given(before=RANDOM_TEXT, after=RANDOM_TEXT.filter(bool), data=st.data())
def test_output_in_the_context_of_a_prompt(before: str, after: str, data: st.DataObject) -> None:
    """Wherever the ids are cut into prompt and output, the output's text is whole characters."""
    ids = BYTE_LEVEL.encode(before + after, parse_special=False)
    cut = data.draw(st.integers(0, len(ids)))
    prompt_bytes = b"".join(map(BYTE_LEVEL.token_bytes, ids[:cut]))
    complete = prompt_bytes.decode(errors="ignore")
    text = "".join(stream(BYTE_LEVEL, ids[cut:], prompt=ids[:cut]))
    if cut < len(ids):
        assert complete + text == before + after
    else:
        assert text == ""


@pytest.mark.parametrize("text", ["日本語", "🙂👩‍👩‍👧", "e\u0301x", "Ω≈ç√", "漢\n字"])
def test_characters_are_never_halved(text: str) -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL)
    ids = BYTE_LEVEL.encode(text)
    deltas = [detokenizer.push([token_id]) for token_id in ids]
    assert "".join(deltas) == text
    assert all(delta in text for delta in deltas)
    assert detokenizer.flush() == ""


def test_prompt_that_ends_inside_a_character() -> None:
    raw = "🙂!".encode()
    ids = [BYTE_LEVEL.encode(chr(b))[0] if b < 128 else byte_id(b) for b in raw]
    for cut in (1, 2, 3):
        assert stream(BYTE_LEVEL, ids[cut:], prompt=ids[:cut])[:-1] == ["", "", "", "🙂", "!"][cut:]


def test_prompt_character_that_is_never_completed_is_not_ours() -> None:
    assert "".join(stream(BYTE_LEVEL, BYTE_LEVEL.encode("ok"), prompt=[byte_id(0xF0)])) == "ok"
    assert "".join(stream(BYTE_LEVEL, [], prompt=[byte_id(0xF0)])) == ""


def test_incomplete_end_is_flushed_once() -> None:
    deltas = stream(BYTE_LEVEL, [*BYTE_LEVEL.encode("a"), byte_id(0xE6), byte_id(0x97)])
    assert deltas == ["a", "", "", "\ufffd"]


def test_leading_space_is_kept_after_a_prompt_only() -> None:
    ids = PREFIXED.encode("fox", add_special_tokens=False)
    assert "".join(stream(PREFIXED, ids)) == "fox"
    assert "".join(stream(PREFIXED, ids, prompt=PREFIXED.encode("The"))) == " fox"
    assert "".join(stream(PREFIXED, ids, prompt=[1])) == "fox", "BOS shows no text"


def test_special_tokens_are_shown_or_not() -> None:
    ids = BYTE_LEVEL.encode("a<|user|>b<|end|>")
    assert "".join(stream(BYTE_LEVEL, ids)) == "ab"
    assert "".join(stream(BYTE_LEVEL, ids, skip=False)) == "a<|user|>b<|end|>"


def test_ids_without_an_entry_have_no_text() -> None:
    """A model may have more rows than its tokenizer has entries."""
    ids = [BYTE_LEVEL.vocab_size + 3, *BYTE_LEVEL.encode("ok")]
    assert "".join(stream(BYTE_LEVEL, ids)) == "ok"


def word_tokenizer(decoder: decoders.Decoder) -> Tokenizer:
    words = ["[UNK]", "he", "##llo", "dog", ".", "a</w>", "b", "c</w>", "<s>", "</s>"]
    backend = tokenizers.Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.decoder = decoder
    backend.add_special_tokens(["<s>", "</s>"])
    return Tokenizer(backend, TokenizerFacts())


@pytest.mark.parametrize(
    "decoder",
    [decoders.WordPiece(cleanup=False), decoders.BPEDecoder("</w>")],
    ids=["word-piece", "word-end-marks"],
)
@SEEDED
@given(data=st.data(), cuts=CUTS, skip=st.booleans())
def test_other_decoders(
    decoder: decoders.Decoder, data: st.DataObject, cuts: list[int], skip: bool
) -> None:
    tokenizer = word_tokenizer(decoder)
    ids = data.draw(ids_of(tokenizer))
    expected = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(stream(tokenizer, ids, cuts, skip=skip)) == expected


def test_spaces_between_special_tokens() -> None:
    tokenizer = word_tokenizer(decoders.WordPiece(cleanup=False))
    ids = [3, 8, 9, 3]
    for spaces, expected in ((True, "dog <s> </s> dog"), (False, "dog <s></s> dog")):
        detokenizer = IncrementalDetokenizer(
            tokenizer, skip_special_tokens=False, spaces_between_special_tokens=spaces
        )
        assert detokenizer.push(ids) + detokenizer.flush() == expected


def byte_id(value: int) -> int:
    """The id of the token that is this one byte."""
    found = [i for i in range(BYTE_LEVEL.vocab_size) if BYTE_LEVEL.token_bytes(i) == bytes([value])]
    return found[0]
