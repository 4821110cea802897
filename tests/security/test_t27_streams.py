"""T27: characters split over tokens, prompts that end inside one, stop strings across tokens.

The tiny model is made to say bytes of our choice by biases on its tokens. What they spell is worked
out here from the ids alone, with Python's own decoder.
"""

import itertools
import json
from typing import Any

import pytest
from tests.security.guarded import Guarded
from tests.security.model import bytes_of, token_of

ALPHABETS: dict[str, bytes] = {
    "one CJK character": "你".encode(),
    "two CJK characters": "你好".encode(),
    "an emoji": "🙂".encode(),
    "a family": "👨‍👩‍👧".encode(),
    "accents": "éß".encode(),
    "text and CJK": b"a " + "漢".encode(),
    "continuations alone": b"\x80\x81\xbf",
    "starts alone": b"\xc3\xe4\xf0",
    "never in UTF-8": b"\xc0\xfe\xff",
    "surrogates": b"\xed\xa0\x80",
    "U+FFFD itself": "\ufffd".encode(),
    "a line end and a CJK character": b"\n" + "語".encode(),
    "a byte-order mark": b"\xef\xbb\xbf",
}
SEEDS = range(2)


def bias(alphabet: bytes) -> dict[str, float]:
    """Makes everything else impossible, as far as a bias can."""
    return {str(token_of(byte)): 100.0 for byte in set(alphabet)}


def spelled(ids: list[int]) -> str:
    return b"".join(map(bytes_of, ids)).decode("utf-8", "replace")


def streamed(server: Guarded, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of ``/generate``, incremental or not as the server is."""
    text = server.post("/generate", {**body, "stream": True}).text
    lines = [line for line in text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("name", ALPHABETS)
def test_streams_spell_what_the_ids_spell(server: Guarded, name: str) -> None:
    for seed in SEEDS:
        params = {
            "max_new_tokens": 30,
            "sampling_seed": seed,
            "logit_bias": bias(ALPHABETS[name]),
            "ignore_eos": True,
            "temperature": 1.5,
        }
        body = {"text": "a", "sampling_params": params}
        whole = server.post("/generate", body).json()
        assert {bytes_of(i) for i in whole["output_ids"]} <= {bytes([b]) for b in ALPHABETS[name]}
        assert whole["text"] == spelled(whole["output_ids"])
        events = streamed(server, body)
        assert events[-1]["text"] == whole["text"]
        texts = [event["text"] for event in events]
        for before, after in itertools.pairwise(texts):
            assert after.startswith(before), "what was sent is never taken back"


def chat_deltas(server: Guarded, body: dict[str, Any]) -> list[str]:
    text = server.post("/v1/completions", {**body, "stream": True}).text
    events = [json.loads(e[6:]) for e in text.split("\n\n") if e and e != "data: [DONE]"]
    return [event["choices"][0]["text"] for event in events]


@pytest.mark.parametrize("name", ["one CJK character", "an emoji", "a family", "accents"])
def test_no_half_character_is_sent_where_a_whole_one_comes(server: Guarded, name: str) -> None:
    """Where the whole text has no U+FFFD, no piece of the stream has one."""
    checked = 0
    for seed in range(5):
        body = {
            "prompt": "a",
            "max_tokens": 24,
            "seed": seed,
            "logit_bias": bias(ALPHABETS[name]),
            "ignore_eos": True,
        }
        pieces = chat_deltas(server, body)
        whole = "".join(pieces)
        for piece in pieces:
            piece.encode()  # no lone surrogates
        # Pieces are whole characters: what they have of U+FFFD, the text has too.
        assert sum(piece.count("\ufffd") for piece in pieces) == whole.count("\ufffd")
        checked += bool(whole)
    assert checked


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_prompts_that_end_inside_a_character(server: Guarded, cut: int) -> None:
    """The rest of the character completes it; nothing of the prompt is in the text."""
    whole = "🙂".encode()
    prompt = [token_of(b) for b in b"ab" + whole[:cut]]
    rest = whole[cut:]
    for seed in SEEDS:
        params = {
            "max_new_tokens": len(rest),
            "sampling_seed": seed,
            "logit_bias": bias(rest),
            "ignore_eos": True,
        }
        body = {"input_ids": prompt, "sampling_params": params}
        reply = server.post("/generate", body).json()
        assert "ab" not in reply["text"]
        said = b"".join(map(bytes_of, reply["output_ids"]))
        if said == rest:
            assert reply["text"] in ("🙂", spelled(reply["output_ids"]))
        assert streamed(server, body)[-1]["text"] == reply["text"]
        echo = {"prompt": prompt, "echo": True, "max_tokens": 0}
        assert server.post("/v1/completions", echo).status_code == 200


STOPS: dict[str, tuple[bytes, str]] = {
    "across two tokens": (b"ab", "ab"),
    "across many tokens": (b"ab", "abba"),
    "a CJK character of three tokens": ("你".encode(), "你"),
    "beside CJK": (b"a" + "你".encode(), "aa"),
    "half of an emoji's bytes are no stop": ("🙂".encode(), "\ufffd"),
    "two that begin alike": (b"abc", "abc"),
}


@pytest.mark.parametrize("name", STOPS)
def test_stop_strings_cut_exactly(server: Guarded, name: str) -> None:
    """Nothing of the stop string nor of what follows is ever sent, streamed or not."""
    alphabet, stop = STOPS[name]
    stopped = 0
    for seed in range(20):
        if stopped == 2 or (seed == 2 and name.startswith("half")):
            break
        body = {
            "prompt": "x",
            "max_tokens": 40,
            "seed": seed,
            "logit_bias": bias(alphabet),
            "ignore_eos": True,
        }
        free = server.post("/v1/completions", body).json()["choices"][0]["text"]
        cut = {**body, "stop": stop}
        choice = server.post("/v1/completions", cut).json()["choices"][0]
        pieces = chat_deltas(server, cut)
        assert "".join(pieces) == choice["text"]
        if stop in free:
            assert choice["text"] == free[: free.index(stop)]
            assert choice["finish_reason"] == "stop"
            stopped += 1
        else:
            assert choice["text"] == free
        assert stop not in choice["text"]
    assert stopped or name.startswith("half")


def test_stop_text_of_the_prompt_stops_nothing(server: Guarded) -> None:
    body = {
        "prompt": "end of prompt: sto",
        "max_tokens": 10,
        "stop": ["sto", "p: "],
        "logit_bias": bias(b"xy"),
        "ignore_eos": True,
    }
    choice = server.post("/v1/completions", body).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert set(choice["text"]) <= {"x", "y"}
    assert len(choice["text"]) == 10


def test_special_tokens_are_text_only_where_asked_for(server: Guarded) -> None:
    params = {"max_new_tokens": 5, "logit_bias": {"1": 100}, "ignore_eos": True}
    body = {"text": "a", "sampling_params": params}
    reply = server.post("/generate", body).json()
    assert reply["output_ids"] == [1] * 5
    assert reply["text"] == ""
    params["skip_special_tokens"] = False
    shown = server.post("/generate", body).json()
    assert shown["text"] == "<|im_start|>" * 5
    for text in (event["text"] for event in streamed(server, body)):
        assert shown["text"].startswith(text)
