"""T13: patterns that take other engines exponential time, in every kind of grammar."""

import json
import re
import time
from typing import Any

import pytest
from tests.security.grammars import EXPLODING, ROUTES, body_for, reason_of, text_of, warm
from tests.security.guarded import Guarded
from tests.security.responses import ROUTE

LIMIT_S = 10.0
"""For a reply that takes well under two seconds on a machine that does nothing else."""

CATASTROPHIC = [
    r"(a+)+b",
    r"(a|a)*b",
    r"(a|aa)+c",
    r"((a{1,100}){1,100}){1,100}b",
    r"(.*a){50}b",
    r"(.*)(.*)(.*)(.*)(.*)[^a]x{1,1000}",
    r"(x+x+)+y",
    r"([a-zA-Z]+)*1",
    r"(a|b)*a(a|b){30}c",
    r"[a-z]{1,100000}",
    r"(\w+\s?)*z",
    "(" + "|".join("a" * i for i in range(1, 200)) + ")*b",
]


def kinds(pattern: str) -> dict[str, Any]:
    """A pattern in every field that can hold one."""
    quoted = json.dumps(pattern)
    tag = {"type": "structural_tag", "format": {"type": "regex", "pattern": pattern}}
    return {
        "regex": pattern,
        "json_schema": {"type": "string", "pattern": f"^{pattern}$", "maxLength": 10_000},
        "structural_tag": json.dumps(tag),
        "ebnf": f'root ::= ({quoted} | x+)+ "b"\nx ::= [a-z]+ | x x | "a"*',
    }


@pytest.mark.parametrize("field", ["regex", "json_schema", "structural_tag", "ebnf"])
def test_catastrophic_patterns(server: Guarded, field: str) -> None:
    warm(server)
    for number, pattern in enumerate(CATASTROPHIC):
        route = ROUTES[number % len(ROUTES)]
        began = time.monotonic()
        reply = server.post(route, body_for(route, field, kinds(pattern)[field]))
        assert time.monotonic() - began < LIMIT_S, pattern
        assert reply.status_code in (200, 400), (pattern, reply.text)
        if reply.status_code == 400:
            assert "regex" in reply.text or field in reply.text or "grammar" in reply.text
        elif field == "regex" and reason_of(route, reply.json()) == "stop":
            assert re.fullmatch(pattern, text_of(route, reply.json()))


def asked_elsewhere(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema as the other APIs take it."""
    messages = [{"role": "user", "content": "the"}]
    form = {"format": {"type": "json_schema", "schema": schema}}
    options = {"num_predict": 24, "seed": 3}
    ollama = {"model": "m", "format": schema, "options": options, "stream": False}
    return {
        "/v1/messages": {
            "model": "m", "max_tokens": 24, "messages": messages, "output_config": form,
        },
        "/api/chat": {**ollama, "messages": messages},
        "/api/generate": {**ollama, "prompt": "the"},
    }  # fmt: skip


def test_catastrophic_patterns_by_other_apis(server: Guarded) -> None:
    warm(server)
    routes = list(asked_elsewhere({}))
    for number, pattern in enumerate(CATASTROPHIC):
        route = routes[number % len(routes)]
        began = time.monotonic()
        reply = server.post(route, asked_elsewhere(kinds(pattern)["json_schema"])[route])
        assert time.monotonic() - began < LIMIT_S, pattern
        assert reply.status_code in (200, 400), (pattern, reply.text)


@pytest.mark.parametrize("route", asked_elsewhere({}))
def test_wrong_schemas_by_other_apis(server: Guarded, route: str) -> None:
    for schema in ({"type": "nothing"}, {"type": "string", "pattern": "("}, {"$ref": "#/$defs/x"}):
        reply = server.post(route, asked_elsewhere(schema)[route])
        assert reply.status_code == 400, (schema, reply.text)
        assert reply.json().get("type", "error") == "error"


def test_an_ambiguous_grammar_is_stopped_before_it_stops_others(server: Guarded) -> None:
    """Each letter can stand in ever more places, so each token takes longer than the one before."""
    ebnf = 'root ::= root root | [a-z] | ""'
    body = body_for("/v1/completions", "ebnf", ebnf, max_tokens=400, ignore_eos=True)
    reply = server.post("/v1/completions", body)
    assert reply.status_code in (200, 400)
    if reply.status_code == 400:
        assert reply.json()["error"]["code"] in ("grammar_failed", "invalid_grammar")


def test_an_automaton_that_outgrows_its_bounds(server: Guarded) -> None:
    body = body_for("/v1/completions", "regex", EXPLODING, max_tokens=400)
    reply = server.post("/v1/completions", body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "grammar_failed"


def test_catastrophic_patterns_of_responses(server: Guarded) -> None:
    warm(server)
    for number, pattern in enumerate(CATASTROPHIC):
        schema = {"type": "string", "pattern": f"^{pattern}$", "maxLength": 10_000}
        form = {"type": "json_schema", "name": "x", "schema": schema}
        kinds: list[dict[str, Any]] = [
            {"regex": pattern},
            {"text": {"format": form}},
            {"tools": [{"type": "function", "name": "f", "parameters": {
                "type": "object", "properties": {"a": schema}}}], "tool_choice": "required"},
        ]  # fmt: skip
        began = time.monotonic()
        reply = server.post(
            ROUTE, {"input": "the", "max_output_tokens": 16, "seed": 3, **kinds[number % 3]}
        )
        assert time.monotonic() - began < LIMIT_S, pattern
        assert reply.status_code in (200, 400), (pattern, reply.text)
