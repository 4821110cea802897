"""T21: every route but the public ones needs a key, administrators' routes theirs."""

import pytest
from tests.security.guarded import Guarded, Keyed
from tests.security.routes import Route, all_routes

from tupelo_server.access import Access

PUBLIC = {
    "/health",
    "/health_generate",
    "/ready",
    "/metrics",
    "/",
    "/playground/app.js",
    "/playground/app.css",
}
"""What a stranger may call. A route that is added here is opened to everybody."""

ADMIN = {
    "/pause_generation",
    "/continue_generation",
    "/update_weights_from_disk",
    "/update_weight_version",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/start_profile",
    "/stop_profile",
    "/load_model",
    "/unload_model",
    "/model_state",
}
"""What at least is no user's business."""

OLLAMA = (
    *("chat", "generate", "embed", "embeddings", "tags", "ps", "show", "version"),
    *("pull", "push", "create", "copy", "delete"),
)
"""Whose own server has been found open to everybody."""

ROUTES = all_routes()


def ask(server: Guarded, route: Route, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"} if key else {"x": "y"}
    content = b"{}" if route.method in ("POST", "PUT") else None
    return server.request(route.method, route.path, headers=headers, content=content).status_code


def test_the_list_is_whole() -> None:
    assert len(ROUTES) > 30
    assert {route.path for route in ROUTES if route.access is Access.PUBLIC} == PUBLIC
    assert {route.path for route in ROUTES if route.access is Access.ADMIN} >= ADMIN
    paths = {route.path for route in ROUTES}
    assert {"/openapi.json", "/v1/messages", "/v1/messages/count_tokens"} <= paths
    assert {f"/api/{name}" for name in OLLAMA} <= paths


def test_no_route_opens_without_a_key(keyed: Keyed) -> None:
    for route in ROUTES:
        if route.access is not Access.PUBLIC:
            assert ask(keyed, route, "") == 401, route
            assert ask(keyed, route, "sk-wrong") == 401, route


def test_administrators_routes_need_their_key(keyed: Keyed) -> None:
    closed = [route for route in ROUTES if route.access >= Access.OPERATOR]
    assert closed
    for route in closed:
        assert ask(keyed, route, keyed.alice) == 403, route
        assert ask(keyed, route, keyed.bob) == 403, route


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PATCH", "DELETE", "GET", "POST"])
def test_other_methods_open_nothing_either(keyed: Keyed, method: str) -> None:
    for path in sorted({route.path for route in ROUTES} - PUBLIC):
        reply = keyed.request(method, path, headers={"x": "y"})
        assert reply.status_code == 401, path


def test_administrators_routes_are_absent_unless_enabled(server: Guarded) -> None:
    """On a server without keys too: nobody there can be the administrator."""
    for route in ROUTES:
        if route.access is Access.ADMIN:
            assert ask(server, route, "") == 404, route
            assert ask(server, route, "anything") == 404, route
    document = server.get("/openapi.json").json()
    assert not ADMIN & set(document["paths"])
    assert "/v1/completions" in document["paths"]


@pytest.mark.parametrize("name", ["origin", "sec-fetch-site"])
def test_a_web_page_operates_nothing(server: Guarded, name: str) -> None:
    """Where nobody has a key, a page that somebody here reads could send requests through the
    browser, but not without these headers."""
    headers = {name: "null" if name == "origin" else "cross-site"}
    for route in ROUTES:
        if route.access is Access.OPERATOR:
            reply = server.request(route.method, route.path, headers=headers)
            assert reply.status_code == 403, route
    everything = server.post("/abort_request", {"abort_all": True}, headers=headers)
    assert everything.status_code == 403
