"""Stop patterns: found at the character that completes them, however the text is split."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.text.conftest import byte_level_metadata, tokenizer_of

from tupelo.errors import InvalidRequest
from tupelo.text.output import TextStream
from tupelo.text.stop_patterns import WINDOW_BYTES, StopPatterns

TOKENIZER = tokenizer_of(byte_level_metadata())
PATTERNS = ["ab+a", "^b", "a$", r"\bab\b", "é|ab?é", "(a|b)é{2}", "b.b", "(?i)AB", r"(a+)+b\b"]


def first_match(patterns: list[str], text: str) -> tuple[int, str] | None:
    """Python's own engine, asked about every beginning of the text."""
    for size in range(1, len(text) + 1):
        for pattern in patterns:
            if re.search(pattern, text[:size], re.ASCII):  # as RE2's classes are
                return size, pattern
    return None


@given(
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3),
    st.lists(st.text("abé ", max_size=5), max_size=6),
)
def test_the_earliest_match_counts(patterns: list[str], parts: list[str]) -> None:
    want = first_match(list(dict.fromkeys(patterns)), "".join(parts))
    finder = StopPatterns(patterns)
    before = 0
    for part in parts:
        found = finder.feed(part)
        if found is not None:
            assert (before + found[0], found[1]) == want
            return
        before += len(part)
    assert want is None


def test_a_long_text_keeps_its_context() -> None:
    finder = StopPatterns(["^x", r"\bend\b"])
    assert finder.feed("é" * (3 * WINDOW_BYTES)) is None
    assert finder.feed("x") is None, "it is not at the beginning"
    assert finder.feed("a" * (3 * WINDOW_BYTES)) is None
    assert finder.feed("end") is None, "a word goes before it"
    assert finder.feed(" end") == (4, r"\bend\b")


def test_matches_within_the_window_are_found() -> None:
    finder = StopPatterns(["<.*>"])
    assert finder.feed("ab<") is None
    assert all(finder.feed("word ") is None for _ in range(WINDOW_BYTES // 5 - 2))
    assert finder.feed("z>tail") == (2, "<.*>")


@pytest.mark.parametrize(
    "pattern", ["(a", "(?=a)b", r"(a)\1", "a**", "x{1001}", "((a{30}){30}){30}", "\ud800"]
)
def test_what_cannot_be_linear_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        StopPatterns(["fine", pattern])
    assert caught.value.param == "stop_regex"


def test_patterns_that_cannot_be_joined() -> None:
    finder = StopPatterns([r"\Qa.b", "c"])
    assert finder.feed("aXb a") is None
    assert finder.feed(".bc") == (2, r"\Qa.b")


@pytest.mark.parametrize(
    ("text", "stop", "patterns", "expected", "matched"),
    [
        ("so 1 or 22 then", (), (r"\d\d",), "so 1 or 22", r"\d\d"),
        ("日本語。終わり", (), ("。.",), "日本語。終", "。."),
        ("one two", ("two",), ("t",), "one t", "t"),
        ("one two", ("tw",), ("tw",), "one ", "tw"),
        ("one two", ("two!",), ("x",), "one two", None),
        ("one two", (), ("",), "one two", None),
    ],
)
def test_in_a_stream(
    text: str, stop: tuple[str, ...], patterns: tuple[str, ...], expected: str, matched: str | None
) -> None:
    stream = TextStream(TOKENIZER, stop=stop, stop_regex=patterns)
    found = [stream.push([token_id]) for token_id in TOKENIZER.encode(text)]
    assert "".join(delta.text for delta in found) + stream.finish() == expected
    assert stream.matched_stop == matched


def test_tokens_before_the_minimum_do_not_count() -> None:
    stream = TextStream(TOKENIZER, stop_regex=("a",), min_new_tokens=3)
    assert stream.push(TOKENIZER.encode("aaab")).text == "aaa"
    assert stream.num_tokens == 3
