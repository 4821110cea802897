"""A real model behind Anthropic's and Ollama's routes: leaving frees what a request held."""

from typing import Any

import httpx
import pytest
from tests.system.harness import ServerProcess

HI = [{"role": "user", "content": "Hi"}]
LONG = {"type": "string", "minLength": 3000, "maxLength": 3000}
"""It keeps the model talking."""

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        "max_tokens": 2000,
        "output_config": {"format": {"type": "json_schema", "schema": LONG}},
        "stream": True,
        "messages": HI,
    },
    "/api/chat": {"options": {"num_predict": 2000}, "format": LONG, "messages": HI},
    "/api/generate": {"options": {"num_predict": 2000}, "format": LONG, "prompt": "Hi"},
}


def has_aborted(server: ServerProcess, number: float) -> bool:
    """So many requests were, and the last has left nothing; an engine that is busy tells later."""
    seen = server.metrics()
    gone = seen["sglang:num_aborted_requests_total"] == number
    return gone and seen.get("sglang:num_running_reqs") == seen.get("tupelo:pages_owned") == 0


@pytest.mark.parametrize("route", ROUTES)
def test_leaving_a_stream_aborts(server: ServerProcess, route: str) -> None:
    aborted = server.metric("sglang:num_aborted_requests_total")
    body = {"model": "demo", **ROUTES[route]}
    with httpx.stream("POST", server.url + route, json=body, timeout=60) as reply:
        assert reply.status_code == 200
        lines = reply.iter_lines()  # kept: the connection is closed with it
        assert next(lines)
        assert server.metric("sglang:num_aborted_requests_total") == aborted
    server.wait_for(lambda: has_aborted(server, aborted + 1), 20)


@pytest.mark.parametrize("route", ["/api/chat", "/api/generate"])
def test_leaving_before_the_reply_aborts_too(server: ServerProcess, route: str) -> None:
    aborted = server.metric("sglang:num_aborted_requests_total")
    body = {"model": "demo", **ROUTES[route], "stream": False}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + route, json=body, timeout=httpx.Timeout(60, read=1))
    server.wait_for(lambda: has_aborted(server, aborted + 1), 20)
