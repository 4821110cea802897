"""Requests that wait or take too long, full queues, a server that stops: what clients are told."""

import json
import time
from typing import Any

import pytest
from tests.unit.server.conftest import Service, Start

from tupelo.engine.messages import Finish
from tupelo.request import FinishReason

PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "n": 2},
    "/v1/completions": {"prompt": ["a", "b"]},
    "/generate": {"text": ["a", "b"]},
}
HEADER = "x-request-timeout-s"


def idle(service: Service) -> bool:
    """Whether the engine is left with nothing."""
    deadline = time.monotonic() + 5
    while service.engine.live and time.monotonic() < deadline:
        time.sleep(0.01)
    return (
        not service.engine.live
        and service.state.frontend is not None
        and (service.state.frontend.num_live == 0)
    )


@pytest.mark.parametrize("path", list(PATHS))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_wait_that_is_too_long(start: Start, path: str, stream: bool) -> None:
    service = start(max_queue_time_s=0.1)
    service.engine.delay_s = 0.5  # until the first token
    reply = service.post(path, **PATHS[path], stream=stream)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    error = reply.json()["error"]
    assert "waited" in error["message"]
    if path.startswith("/v1"):
        assert error["code"] == "queue_timeout"
        assert error["type"] == "service_unavailable_error"
    assert idle(service)


def test_who_has_been_served_waits_no_longer(start: Start) -> None:
    service = start(max_queue_time_s=1.0)
    service.engine.delay_s = 0.1  # a token: 14 of them take longer than a wait may
    reply = service.post("/v1/completions", prompt="a", stream=True)
    assert reply.text.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"stop"' in reply.text


@pytest.mark.parametrize("path", list(PATHS))
@pytest.mark.parametrize("by", ["option", "header", "shorter header"])
def test_a_request_that_takes_too_long(start: Start, path: str, by: str) -> None:
    if by == "option":
        service, headers = start(max_request_time_s=1.0), {}
    else:
        service, headers = start(max_request_time_s=60 if by == "shorter header" else 0), {}
        headers[HEADER] = "1.0"
    service.post(path, **PATHS[path])  # starts the template's worker
    service.engine.delay_s = 0.1
    reply = service.http.post(path, json={**PATHS[path], "stream": True}, headers=headers)
    assert reply.status_code == 200, "its first events were out"
    *_, last, done = [line for line in reply.text.splitlines() if line]
    assert done == "data: [DONE]"
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == 504
    assert "1 s" in error["message"] or "1.0 s" in error["message"]
    service.engine.delay_s = 5.0
    begin = time.monotonic()
    reply = service.http.post(path, json=PATHS[path], headers=headers)
    assert reply.status_code == 504
    assert time.monotonic() - begin < 5
    assert idle(service)


def test_a_request_in_time_is_left_alone(start: Start) -> None:
    service = start(max_request_time_s=30, max_queue_time_s=30)
    for stream in (False, True):
        headers = {HEADER: "20"}
        reply = service.http.post(
            "/v1/completions", json={"prompt": "a", "stream": stream}, headers=headers
        )
        assert reply.status_code == 200
        assert "error" not in reply.text


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "soon", "", "1" * 400])
def test_a_time_that_is_none_is_refused(service: Service, value: str) -> None:
    reply = service.http.post("/v1/completions", json={"prompt": "a"}, headers={HEADER: value})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == HEADER
    assert service.engine.requests == []


@pytest.mark.parametrize("path", list(PATHS))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_full_queue(service: Service, path: str, stream: bool) -> None:
    service.engine.refuse = Finish(
        FinishReason.ERROR, message="9 requests wait already", status=429, code="queue_full"
    )
    reply = service.post(path, **PATHS[path], stream=stream)
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "1"
    if path.startswith("/v1"):
        assert reply.json()["error"]["code"] == "queue_full"
        assert reply.json()["error"]["type"] == "rate_limit_error"


def test_a_stopping_server_sends_clients_elsewhere(start: Start) -> None:
    service = start()
    assert service.http.get("/ready").status_code == 200
    service.state.draining = True
    assert service.state.frontend is not None
    service.state.frontend.close()
    assert service.http.get("/ready").status_code == 503
    assert service.http.get("/health").status_code == 200, "it lives until it is empty"
    for path, body in PATHS.items():
        reply = service.post(path, **body)
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert "stopping" in reply.text
    assert service.engine.requests == []


@pytest.mark.parametrize("path", list(PATHS))
def test_priority_counts_where_requests_are_ordered_by_it(start: Start, path: str) -> None:
    service = start(engine={"schedule_policy": "priority"})
    assert service.post(path, **PATHS[path], priority=5).status_code == 200
    assert {request.priority for request in service.engine.requests} == {5}
    for policy in ("fcfs", "lpm"):
        service = start(engine={"schedule_policy": policy})
        reply = service.post(path, **PATHS[path], priority=5)
        assert reply.status_code == 400
        assert "--schedule-policy priority" in reply.text
        assert service.engine.requests == []
