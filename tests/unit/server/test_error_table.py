"""Kinds of bad input times routes that generate or pool: the status and the whole body of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.unit.server.conftest import Service, Start
from tests.unit.server.fake_pooler import FakePooler

from tupelo.engine.messages import Finish
from tupelo.errors import EngineUnavailable
from tupelo.request import FinishReason


@dataclass(frozen=True)
class Route:
    """A route and how its fields are called.

    Attributes:
        body: what it takes. prompt: the field that holds text or ids. ids: the one that takes ids.
        pools: it needs a model that pools.
    """

    path: str
    body: dict[str, Any]
    prompt: str
    ids: str = ""
    pools: bool = False

    @property
    def native(self) -> bool:
        return not self.path.startswith("/v1")

    def with_text(self, text: str) -> dict[str, Any]:
        if self.prompt == "messages":
            return {"messages": [{"role": "user", "content": text}]}
        if self.prompt == "items":
            return {**self.body, "items": [text]}
        return {**self.body, self.prompt: text}

    def with_ids(self, ids: list[Any]) -> dict[str, Any]:
        kept = {k: v for k, v in self.body.items() if k != self.prompt or k == "messages"}
        if self.prompt == "items":
            return {**self.body, "query": ids, "items": [[5]]}
        return {**kept, self.ids or self.prompt: ids}


ROUTES = [
    Route("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "messages",
          "input_ids"),
    Route("/v1/completions", {"prompt": "Hi"}, "prompt"),
    Route("/generate", {"text": "Hi"}, "text", "input_ids"),
    Route("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [1]}, "items"),
    Route("/v1/embeddings", {"input": "Hi"}, "input", pools=True),
    Route("/encode", {"text": "Hi"}, "text", "input_ids", pools=True),
]  # fmt: skip
GENERATING = [route for route in ROUTES if not route.pools]
Check = Callable[[dict[str, Any]], bool]


@pytest.fixture
def open_service(start: Start) -> Callable[[Route], Service]:
    """A server over the model that a route needs."""

    def opening(route: Route, **options: Any) -> Service:
        service = start(**options)
        if route.pools and service.state.frontend is not None:
            tokenizer = service.engine.tokenizer
            service.state.frontend.pooler = FakePooler("embed", tokenizer)
        return service

    return opening


def check(
    route: Route, reply: httpx.Response, status: int, kind: str, code: str | None = None
) -> dict[str, Any]:
    """The status, and a body of exactly the shape that the route's kind has."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert set(body) == {"error"}
    error = body["error"]
    if not route.native:
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == (kind, code)
        found: dict[str, Any] = error
        return found
    if isinstance(error, str):  # SGLang's shape where a body is no valid one, or a key is missing
        assert status in (400, 401)
        return {"message": error}
    assert set(error) == ({"message", "code"} if code else {"message"})
    assert error.get("code") == code
    return dict(error)


INVALID = "invalid_request_error"


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"{", "no valid JSON"),
        (b'{"a": NaN}', "no valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{}", ""),
        (b"", ""),
    ],
    ids=["cut", "nan", "list", "string", "no utf-8", "deep", "empty object", "nothing"],
)
def test_bodies_that_are_none(
    open_service: Callable[..., Service], route: Route, content: bytes, word: str
) -> None:
    reply = open_service(route).http.post(route.path, content=content)
    assert word in check(route, reply, 400, INVALID)["message"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"no_such_field": 1}, "no_such_field"),
        ({"rid": 7}, "rid"),
        ({"priority": 5}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"lora_path": "adapter"}, "lora_path"),
        ({"model": 3}, "model"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_fields_that_all_share(
    open_service: Callable[..., Service], route: Route, change: dict[str, Any], param: str
) -> None:
    reply = open_service(route).post(route.path, **{**route.body, **change})
    code = "unsupported_parameter" if param == "lora_path" else None
    error = check(route, reply, 400, INVALID, code)
    assert param in error["message"]
    assert error.get("param", param) == param


@pytest.mark.parametrize("route", GENERATING, ids=lambda r: r.path)
def test_ids_of_requests_that_are_too_long(service: Service, route: Route) -> None:
    reply = service.post(route.path, **route.body, rid="x" * 1000)
    assert "rid" in check(route, reply, 400, INVALID)["message"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_that_are_too_long(
    open_service: Callable[..., Service], route: Route, stream: bool
) -> None:
    service = open_service(route)
    streams = stream and route.path in ("/v1/chat/completions", "/v1/completions", "/generate")
    more = {"stream": True} if streams else {}
    for body in (route.with_text("x" * 600), route.with_ids([1] * 600)):
        reply = service.post(route.path, **body, **more)
        check(route, reply, 400, INVALID, "context_length_exceeded")
    assert service.engine.requests == []


@pytest.mark.parametrize("route", GENERATING, ids=lambda r: r.path)
@pytest.mark.parametrize(
    "ids", [[-1], [10**6], [1.5], [None], [True], [[1], 2]], ids=lambda v: str(v)
)
def test_ids_that_are_none(service: Service, route: Route, ids: list[Any]) -> None:
    check(route, service.post(route.path, **route.with_ids(ids)), 400, INVALID)
    assert service.engine.requests == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
def test_methods_that_are_not_there(open_service: Callable[..., Service], route: Route) -> None:
    reply = open_service(route).http.delete(route.path)
    check(route, reply, 405, INVALID)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
@pytest.mark.parametrize("key", [None, "wrong"])
def test_keys(open_service: Callable[..., Service], route: Route, key: str | None) -> None:
    service = open_service(route, api_key="right")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    reply = service.http.post(route.path, json=route.body, headers=headers)
    check(route, reply, 401, "authentication_error", "invalid_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"
    right = {"authorization": "Bearer right"}
    assert service.http.post(route.path, json=route.body, headers=right).status_code == 200


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
def test_bodies_that_are_too_large(open_service: Callable[..., Service], route: Route) -> None:
    reply = open_service(route, max_body_bytes=1000).http.post(route.path, content=b"x" * 1001)
    check(route, reply, 413, INVALID, "request_too_large")


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.path)
def test_a_server_that_is_not_ready(open_service: Callable[..., Service], route: Route) -> None:
    service = open_service(route)
    service.state.frontend = None
    reply = service.post(route.path, **route.body)
    check(route, reply, 503, "service_unavailable_error", "engine_unavailable")
    assert int(reply.headers["retry-after"]) > 0


@pytest.mark.parametrize("route", GENERATING, ids=lambda r: r.path)
@pytest.mark.parametrize(
    ("finish", "kind"),
    [
        (Finish(FinishReason.ERROR, message="full", status=429, code="queue_full"),
         "rate_limit_error"),
        (Finish(FinishReason.ERROR, message="broke", status=500, code="internal_error"),
         "internal_error"),
        (Finish(FinishReason.ERROR, message="no such rule", status=400, code=""), INVALID),
    ],
    ids=["queue full", "broken step", "refused grammar"],
)  # fmt: skip
def test_what_the_engine_refuses(service: Service, route: Route, finish: Finish, kind: str) -> None:
    service.engine.refuse = finish
    reply = service.post(route.path, **route.body)
    error = check(route, reply, finish.status, kind, finish.code or None)
    assert error["message"] == finish.message


@pytest.mark.parametrize("route", GENERATING, ids=lambda r: r.path)
def test_an_engine_that_dies(service: Service, route: Route) -> None:
    service.engine.broken = EngineUnavailable("the engine process died (exit code -9)")
    reply = service.post(route.path, **route.body)
    check(route, reply, 503, "service_unavailable_error", "engine_unavailable")


def test_nothing_is_ever_a_422(service: Service) -> None:
    """Every operation of the document, with bodies that fit none of them."""
    document = service.http.get("/openapi.json").json()["paths"]
    calls = [
        (method, path)
        for path, operations in document.items()
        for method in operations
        if "{" not in path and method != "head"
    ]
    assert len(calls) > 25
    bodies: list[Any] = [{}, [], 7, {"model": [], "input": {}, "text": {}, "messages": {}}]
    statuses = {
        (path, service.http.request(method, path, json=body).status_code)
        for method, path in calls
        for body in bodies
    }
    odd = [found for found in statuses if found[1] not in (200, 400)]
    assert odd == []
