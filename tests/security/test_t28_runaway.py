"""T28: models that run away under a schema, in whitespace or in repetition: the bound holds."""

import json
from typing import Any

import pytest
from tests.security.grammars import ROUTES, body_for, reason_of, text_of
from tests.security.guarded import Guarded
from tests.security.model import token_of
from tests.unit.grammar.schemas import arr, obj, whole, word

BLANKS = {str(token_of(byte)): 100 for byte in b" \n\t\r"}
LETTER = {str(token_of(ord("a"))): 100}
BRACKET = {str(token_of(ord("["))): 100, str(token_of(ord(","))): 90}

SCHEMA = obj({"name": word(8), "count": whole(), "tags": arr(word(3), 0, 2)})


@pytest.mark.parametrize("route", ROUTES)
def test_a_model_that_only_wants_blanks(server: Guarded, route: str) -> None:
    body = body_for(route, "json_schema", SCHEMA, max_tokens=450, logit_bias=BLANKS)
    reply = server.post(route, body)
    assert reply.status_code == 200, reply.text
    text = text_of(route, reply.json())
    assert reason_of(route, reply.json()) == "stop", text
    assert set(json.loads(text)) == {"name", "count", "tags"}
    assert text.count(" ") + text.count("\n") + text.count("\t") > 10, "it did what it could"
    assert " " * 40 not in text


@pytest.mark.parametrize("route", ROUTES)
def test_a_model_that_repeats_itself_in_a_bounded_text(server: Guarded, route: str) -> None:
    body = body_for(route, "json_schema", SCHEMA, max_tokens=450, logit_bias=LETTER)
    reply = server.post(route, body).json()
    assert reason_of(route, reply) == "stop"
    name = json.loads(text_of(route, reply))["name"]
    assert len(name) == 8
    assert name.count("a") >= 6


@pytest.mark.parametrize(
    ("schema", "bias"),
    [
        ({"type": "string"}, LETTER),
        ({"type": "array"}, BRACKET),
        ({"type": "array", "items": {"type": "array"}}, BRACKET),
        ({"type": "object"}, LETTER),
    ],
    ids=["text", "brackets", "commas", "name"],
)
def test_what_has_no_bound_ends_with_the_limit_of_tokens(
    server: Guarded, schema: dict[str, Any], bias: dict[str, int]
) -> None:
    for stream in (False, True):
        body = body_for(
            "/v1/completions", "json_schema", schema, max_tokens=120, logit_bias=bias, stream=stream
        )
        reply = server.post("/v1/completions", body)
        assert reply.status_code == 200
        if not stream:
            assert reason_of("/v1/completions", reply.json()) == "length"
            assert reply.json()["usage"]["completion_tokens"] == 120
        else:
            assert b'"finish_reason":"length"' in reply.content
