"""T17: token ids that are none, and prompts at the limit."""

from typing import Any

import pytest
from tests.security.guarded import Guarded
from tests.security.model import CONTEXT, VOCAB

BAD_IDS: dict[str, Any] = {
    "negative": [5, -1],
    "at the vocabulary": [VOCAB],
    "above it": [10**9],
    "above 64 bits": [2**64],
    "empty": [],
    "nested twice": [[[5]]],
    "an empty one of several": [[5], []],
    "a text among ids": [5, "a"],
    "an id among lists": [[5], 5],
    "a float": [5.0],
    "a boolean": [True],
    "null": [5, None],
    "an object": {"0": 5},
}


@pytest.mark.parametrize("name", BAD_IDS)
@pytest.mark.parametrize("route", ["/v1/completions", "/generate"])
def test_bad_ids_are_refused(server: Guarded, route: str, name: str) -> None:
    body = (
        {"input_ids": BAD_IDS[name], "sampling_params": {"max_new_tokens": 2}}
        if route == "/generate"
        else {"prompt": BAD_IDS[name], "max_tokens": 2}
    )
    assert server.post(route, body).status_code == 400
    if route == "/v1/completions":
        error = server.post(route, {**body, "stream": True}).json()["error"]
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", sorted(set(BAD_IDS) - {"empty", "an empty one of several"}))
def test_bad_ids_have_no_text(server: Guarded, name: str) -> None:
    assert server.post("/detokenize", {"tokens": BAD_IDS[name]}).status_code == 400


def test_a_prompt_may_fill_the_context_and_not_one_token_more(server: Guarded) -> None:
    full = [7] * CONTEXT
    whole = server.post("/v1/completions", {"prompt": full, "max_tokens": 0})
    assert whole.status_code == 200, whole.text
    assert whole.json()["usage"]["prompt_tokens"] == CONTEXT
    last = server.post("/v1/completions", {"prompt": full[1:], "max_tokens": 1})
    assert last.json()["usage"]["completion_tokens"] == 1
    for prompt, wanted in ((full, 1), ([*full, 7], 0), (full[:10], CONTEXT - 9)):
        over = server.post("/v1/completions", {"prompt": prompt, "max_tokens": wanted})
        assert over.status_code == 400
        assert over.json()["error"]["code"] == "context_length_exceeded"
