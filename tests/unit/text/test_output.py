"""Stop strings in streams, token counts, and the pieces that log probabilities are shown with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.text.conftest import SEEDED, byte_level_metadata, tokenizer_of

from tupelo.text.output import TextStream, TokenPieces
from tupelo.text.tokenizer import Tokenizer

TOKENIZER = tokenizer_of(byte_level_metadata())


def run(
    text: str, stop: tuple[str, ...], *, no_stop_trim: bool = False, min_new_tokens: int = 0
) -> tuple[str, TextStream, list[str]]:
    stream = TextStream(
        TOKENIZER, stop=stop, no_stop_trim=no_stop_trim, min_new_tokens=min_new_tokens
    )
    deltas = [stream.push([token_id]).text for token_id in TOKENIZER.encode(text)]
    deltas.append(stream.finish())
    return "".join(deltas), stream, deltas


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("xaaab tail", ("aab",), "xa"),
        ("one\n\ntwo", ("\n\n",), "one"),
        ("日本語。終わり", ("。終",), "日本語"),
        ("日本語STOP日", ("STOP",), "日本語"),
        ("a🙂b🙂🙂c", ("🙂🙂",), "a🙂b"),
        ("say </s", ("</s>",), "say </s"),
        ("abcabcabd!", ("abcabd",), "abc"),
        ("hello world", ("world", "wor"), "hello "),
        ("hello world", ("ld", "orld"), "hello w"),
        ("hello world", ("nothing", "xyz"), "hello world"),
        ("hello world", ("", "o"), "hell"),
    ],
)
def test_cut(text: str, stop: tuple[str, ...], expected: str) -> None:
    result, stream, _ = run(text, stop)
    assert result == expected
    matched = stream.matched_stop
    if matched is None:
        assert expected == text
    else:
        assert matched in stop
        kept, _, _ = run(text, stop, no_stop_trim=True)
        assert kept == expected + matched


def test_no_part_of_a_stop_string_is_given_out() -> None:
    _, stream, deltas = run("the answer STOPPING now", ("STOPPED", "STOPPING"))
    assert stream.matched_stop == "STOPPING"
    assert "".join(deltas) == "the answer "
    assert not any("S" in delta for delta in deltas)


def test_what_is_held_back_comes_out_when_it_cannot_match() -> None:
    stream = TextStream(TOKENIZER, stop=("aab",))
    given_out = [stream.push(TOKENIZER.encode(char)).text for char in "aaac"]
    assert given_out == ["", "", "a", "aac"]
    assert stream.finish() == ""


def test_tokens_count_up_to_the_cut() -> None:
    ids = TOKENIZER.encode("ab!!cd")
    stream = TextStream(TOKENIZER, stop=("!!",))
    first = stream.push(ids[:2])
    assert (first.num_tokens, first.matched_stop) == (2, None)
    second = stream.push(ids[2:])
    assert (second.text, second.num_tokens, second.matched_stop) == ("", 2, "!!")
    after = stream.push(ids)
    assert (after.text, after.num_tokens, after.matched_stop) == ("", 0, "!!")
    assert stream.num_tokens == 4
    assert stream.finish() == ""


def test_stop_completed_by_the_last_bytes() -> None:
    broken = TOKENIZER.encode("日")[:1]
    stream = TextStream(TOKENIZER, stop=("\ufffd",))
    assert stream.push([*TOKENIZER.encode("a"), *broken]).text == "a"
    assert stream.finish() == ""
    assert stream.matched_stop == "\ufffd"


def test_min_new_tokens_silences_stop_strings() -> None:
    ids = TOKENIZER.encode("a.b.c.d")
    assert len(ids) == 7
    assert run("a.b.c.d", (".",), min_new_tokens=3)[0] == "a.b"
    assert run("a.b.c.d", (".",), min_new_tokens=4)[0] == "a.b"
    assert run("a.b.c.d", (".",), min_new_tokens=5)[0] == "a.b.c"


def test_a_stop_string_is_not_matched_in_the_prompt() -> None:
    prompt = TOKENIZER.encode("</s")
    stream = TextStream(TOKENIZER, stop=("</s>",), prompt_ids=prompt)
    assert stream.push(TOKENIZER.encode("> ok")).text == "> ok"


def cut_by_hand(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The rule, spelled out: the first end at which any stop is complete; the longest such."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@SEEDED
@given(
    text=st.text("ab日🙂 ", max_size=30),
    stops=st.lists(st.text("ab日🙂 ", min_size=1, max_size=5), max_size=3),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5),
)
def test_any_text_any_stops(text: str, stops: list[str], cuts: list[int]) -> None:
    ids = TOKENIZER.encode(text)
    stream = TextStream(TOKENIZER, stop=tuple(stops))
    out, start, step = "", 0, 0
    expected, matched = cut_by_hand(text, tuple(stops))
    while start < len(ids):
        end = start + cuts[step % len(cuts)]
        out += stream.push(ids[start:end]).text
        assert expected.startswith(out), "nothing may be given out and taken back"
        start, step = end, step + 1
    assert (out + stream.finish(), stream.matched_stop) == (expected, matched)
    if matched is None:
        assert stream.num_tokens == len(ids)
    else:
        shown = TOKENIZER.decode(ids[: stream.num_tokens])
        before = TOKENIZER.decode(ids[: stream.num_tokens - 1])
        assert (expected + matched) in shown
        assert (expected + matched) not in before.replace("\ufffd", "")


@SEEDED
@given(text=st.text("ab日🙂é ", max_size=20), skip=st.booleans())
def test_pieces_make_up_the_text(text: str, skip: bool) -> None:
    ids = TOKENIZER.encode(f"{text}<|end|>")
    pieces = TokenPieces(TOKENIZER, skip_special_tokens=skip).push(ids)
    whole = "".join(piece.text for piece in pieces)
    assert whole == TOKENIZER.decode(ids, skip_special_tokens=skip)
    assert b"".join(piece.raw for piece in pieces) == f"{text}<|end|>".encode()
    for piece in pieces:
        assert whole[piece.offset :].startswith(piece.text)


def test_a_character_belongs_to_the_token_that_completes_it(byte_level: Tokenizer) -> None:
    pieces = TokenPieces(byte_level).push(byte_level.encode("a日b"))
    assert [piece.text for piece in pieces] == ["a", "", "日", "b"]
    assert [piece.offset for piece in pieces] == [0, 1, 1, 2]
    assert pieces[1].raw + pieces[2].raw == "日".encode()
