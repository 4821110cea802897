"""T14: schemas that are wrong, endless, huge, or fail when it is late: a 400 or an error event."""

import json
import time
from typing import Any

import pytest
from tests.security.grammars import EXPLODING, ROUTES, body_for, events, reason_of, text_of, warm
from tests.security.guarded import Guarded
from tests.security.responses import ROUTE, ended
from tests.unit.grammar.schemas import REFUSED, obj, whole

LIMIT_S = 10.0
"""For a refusal that takes under two seconds on a machine that does nothing else."""


@pytest.mark.parametrize("route", ROUTES)
def test_what_cannot_be_followed_is_refused(server: Guarded, route: str) -> None:
    warm(server)
    for number, (name, (schema, said)) in enumerate(REFUSED.items()):
        began = time.monotonic()
        reply = server.post(route, body_for(route, "json_schema", schema, stream=number % 2 == 1))
        assert time.monotonic() - began < LIMIT_S, name
        assert reply.status_code == 400, (name, reply.text[:300])
        assert said in reply.text or "at most" in reply.text, (name, reply.text[:300])
        if route != "/generate":
            error = reply.json()["error"]
            assert error["type"] == "invalid_request_error"
            assert error["param"] in ("response_format", "json_schema"), error


def test_refusals_hold_no_path_and_no_stack(server: Guarded) -> None:
    for schema in (REFUSED["long chain of references"][0], REFUSED["bad pattern"][0]):
        text = server.post("/generate", body_for("/generate", "json_schema", schema)).text
        assert "Traceback" not in text
        assert "site-packages" not in text


def test_a_schema_that_refers_to_itself_and_can_end(server: Guarded) -> None:
    node = obj({"v": whole(0, 9), "n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}})
    schema = {"$defs": {"n": node}, "$ref": "#/$defs/n"}
    for route in ROUTES:
        reply = server.post(route, body_for(route, "json_schema", schema, max_tokens=300))
        assert reply.status_code == 200, reply.text
        if reason_of(route, reply.json()) == "stop":
            json.loads(text_of(route, reply.json()))


def test_a_schema_that_cannot_end_ends_with_the_limit(server: Guarded) -> None:
    endless = {"$defs": {"n": obj({"n": {"$ref": "#/$defs/n"}})}, "$ref": "#/$defs/n"}
    body = body_for("/v1/completions", "json_schema", endless, max_tokens=40)
    reply = server.post("/v1/completions", body)
    assert reply.status_code in (200, 400)
    if reply.status_code == 200:
        assert reason_of("/v1/completions", reply.json()) == "length"


@pytest.mark.parametrize("route", ROUTES)
def test_a_matcher_that_fails_midway_ends_its_stream_with_an_error(
    server: Guarded, route: str
) -> None:
    body = body_for(route, "regex", EXPLODING, max_tokens=400, stream=True)
    reply = server.post(route, body)
    assert reply.status_code == 200, "it had begun when it failed"
    found: list[dict[str, Any]] = events(reply.content)
    assert len(found) > 10
    assert found[-1]["error"]["type"] == "invalid_request_error"
    assert "cannot be followed" in found[-1]["error"]["message"]
    assert all("error" not in event for event in found[:-1])
    assert reply.content.endswith(b"data: [DONE]\n\n")


def test_what_responses_cannot_be_followed(server: Guarded) -> None:
    warm(server)
    for number, (name, (schema, _)) in enumerate(list(REFUSED.items())[::4]):
        form = {"type": "json_schema", "name": "x", "schema": schema}
        body = {"input": "a", "text": {"format": form}, "max_output_tokens": 8}
        reply = server.post(ROUTE, {**body, "stream": number % 2 == 1})
        assert reply.status_code == 400, (name, reply.text[:300])
        assert reply.json()["error"]["param"].startswith("text.format"), reply.text


def test_a_matcher_that_fails_midway_fails_the_response(server: Guarded) -> None:
    body = {"input": "the", "regex": EXPLODING, "max_output_tokens": 400, "seed": 3}
    body["temperature"] = 1.0
    text = server.post(ROUTE, {**body, "stream": True}).text
    last = json.loads(text.rstrip().rpartition("data: ")[2])
    assert last["type"] == "response.failed"
    assert "cannot be followed" in last["response"]["error"]["message"]
    begun = server.post(ROUTE, {**body, "background": True}).json()
    assert ended(server, begun["id"])["error"]["code"] == "invalid_prompt"
