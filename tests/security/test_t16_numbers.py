"""T16: every number of a request at the values that hurt elsewhere: refused before any work."""

import json
from typing import Any

import pytest
from tests.security.guarded import Guarded
from tests.security.model import VOCAB

HUGE = "1" + "0" * 400
NOT_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", HUGE, "true", '"1"', "[1]", '{"a": 1}')
"""As they stand in JSON, or in what some clients take for it."""

NO_COUNT = (*NOT_NUMBERS, "0.5", "1.0", "-2", "1000000000000", str(2**64))
COUNTS = ("n", "max_tokens", "min_tokens", "top_k", "priority", "seed")
RANGES = {
    "temperature": ("-0.1", "1000000000"),
    "top_p": ("-1", "0", "1.01", "1000000000"),
    "min_p": ("-1", "1.01", "1000000000"),
    "frequency_penalty": ("-2.1", "2.1", "1000000000"),
    "presence_penalty": ("-2.1", "2.1", "1000000000"),
    "repetition_penalty": ("-1", "0", "2.1", "1000000000"),
}
ALLOWED = {
    ("seed", "-2"),
    ("seed", "1000000000000"),
    ("priority", "-2"),  # refused all the same, for the policy has no priorities
}
"""What is in bounds for one field and not for the others."""

MORE: dict[str, tuple[str, ...]] = {
    "n": ("0", "-1", "129", "1000000000"),
    "max_tokens": ("-1", "1000000000"),
    "min_tokens": ("-1", "1000000000"),
    "top_k": ("0",),
    "stop_token_ids": ("[-1]", f"[{VOCAB}]", "[true]", "[1.5]", "7", json.dumps([1] * 1025)),
    "logit_bias": (
        '{"-1": 1}',
        f'{{"{VOCAB}": 1}}',
        '{"1": 101}',
        '{"1": NaN}',
        '{"1": 1e999}',
        '{"a": 1}',
        '{"1.5": 1}',
        '{"": 1}',
        '{"٣": 1}',
        "[[1, 1]]",
        json.dumps(dict.fromkeys(map(str, range(1025)), 1)),
    ),
    "stop": (json.dumps(["a"] * 33), json.dumps("a" * 1025), "[1]", '{"a": 1}', "[[]]"),
}
CHAT = {"top_logprobs": ("-1", "129", "1000000000"), "max_completion_tokens": ("-1", "1000000000")}
RESPONSES = {
    "top_logprobs": ("-1", "129", "1000000000"),
    "max_output_tokens": ("-1", "1000000000"),
    "max_thinking_tokens": ("-1",),
}
COMPLETION = {
    "logprobs": ("-1", "129", "1000000000"),
    "best_of": ("0", "-1", "1000000000"),
}


def common() -> list[tuple[str, str]]:
    found = [(name, text) for name in COUNTS for text in NO_COUNT if (name, text) not in ALLOWED]
    found += [(name, text) for name, texts in RANGES.items() for text in (*texts, *NOT_NUMBERS)]
    return found + [(name, text) for name, texts in MORE.items() for text in texts]


def of(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(name, text) for name, texts in table.items() for text in (*texts, *NOT_NUMBERS)]


NATIVE = {
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "seed": "sampling_seed",
}

CASES = {
    "/v1/completions": (common() + of(COMPLETION), '{{"prompt": "a", "{}": {}}}'),
    "/v1/chat/completions": (
        common() + of(CHAT),
        '{{"messages": [{{"role": "user", "content": "a"}}], "logprobs": true, "{}": {}}}',
    ),
    "/v1/responses": (
        common() + of(RESPONSES),
        '{{"input": "a", "include": ["message.output_text.logprobs"], "{}": {}}}',
    ),
    "/generate": (
        [
            (NATIVE.get(name, name), text)
            for name, text in common()
            if name != "priority" and text != "[[1, 1]]"  # pairs are core's own form
        ],
        '{{"text": "a", "sampling_params": {{"{}": {}}}}}',
    ),
}


@pytest.mark.parametrize("route", CASES)
def test_bad_numbers_reach_no_engine(server: Guarded, route: str) -> None:
    fields, body = CASES[route]
    memory = server.resident_bytes()
    wrong: list[Any] = []
    for name, text in fields:
        reply = server.request("POST", route, content=body.format(name, text).encode())
        if reply.status_code != 400 or len(reply.content) > 1000:
            wrong.append((name, text[:80], reply.status_code, reply.text[:200]))
    assert not wrong, f"{len(wrong)} of {len(fields)}: {wrong[:5]}"
    assert len(fields) > 100
    assert server.resident_bytes() - memory < 64 << 20


def test_bad_numbers_of_the_native_body(server: Guarded) -> None:
    for name in ("logprob_start_len", "top_logprobs_num", "priority"):
        for text in NO_COUNT:
            if text == "[1]":  # a list gives a value to each prompt
                continue
            body = f'{{"text": "a", "return_logprob": true, "{name}": {text}}}'
            reply = server.request("POST", "/generate", content=body.encode())
            assert reply.status_code == 400, (name, text, reply.text)


def test_an_error_names_the_field_and_shortens_the_value(server: Guarded) -> None:
    body = {"prompt": "a", "logit_bias": {"9" * 9000: 1}}
    error = server.post("/v1/completions", body).json()["error"]
    assert error["param"] == "logit_bias"
    assert len(error["message"]) < 200


@pytest.mark.parametrize(("n", "prompts"), [(128, 33), (128, 4000), (1, 5000)])
def test_samples_are_bounded_over_all_prompts(server: Guarded, n: int, prompts: int) -> None:
    for route, field in (("/v1/completions", "prompt"), ("/generate", "text")):
        body: dict[str, Any] = {field: ["a"] * prompts}
        body.update({"sampling_params": {"n": n}} if route == "/generate" else {"n": n})
        reply = server.post(route, body)
        assert reply.status_code == 400, (route, reply.text[:200])
