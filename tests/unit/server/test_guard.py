"""API keys, body limits and limits on headers, with raw bytes where a client would tidy up."""

import socket
import time
from urllib.parse import urlsplit

import pytest
from tests.unit.server.conftest import Service, Start

from tupelo_server.access import Access, access_of
from tupelo_server.app import create_api

KEYS = "first-key,second-key"
PUBLIC = {"/health", "/health_generate", "/ready", "/metrics"}
PUBLIC |= {"/", "/playground/app.js", "/playground/app.css"}
OPERATORS = {"/flush_cache"}


def exchange(service: Service, data: bytes, *, wait_s: float = 5.0) -> bytes:
    """Send raw bytes; what comes back until the server closes or says nothing more."""
    parts = urlsplit(service.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=wait_s) as connection:
        connection.sendall(data)
        connection.settimeout(wait_s)
        found = b""
        try:
            while chunk := connection.recv(65536):
                found += chunk
                if b"\r\n\r\n" in found and b"connection: close" not in found.lower():
                    break
        except (TimeoutError, ConnectionResetError):
            pass
    return found


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply else 0


def test_every_route_but_the_public_ones_needs_a_key(start: Start) -> None:
    service = start(api_key=KEYS)
    paths = {
        (method.upper(), path)
        for path, operations in create_api(service.state).openapi()["paths"].items()
        for method in operations
    }
    assert len(paths) > 20
    for method, path in sorted(paths | {("GET", "/openapi.json"), ("GET", "/nowhere")}):
        reply = service.http.request(method, path.replace("{model_id}", "tiny"))
        assert (reply.status_code == 401) == (path not in PUBLIC), (method, path)
        if reply.status_code == 401 and path.startswith("/v1/"):
            error = reply.json()["error"]
            if path.startswith("/v1/messages"):
                assert error["type"] == "authentication_error"
            else:
                assert error["code"] == "invalid_api_key"
            assert reply.headers["www-authenticate"] == "Bearer"
    assert service.http.get("/get_model_info").json() == {"error": "Unauthorized"}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("Bearer first-key", 200),
        ("bearer second-key", 200),
        ("Bearer third-key", 401),
        ("Bearer first-ke", 401),
        ("Bearer first-key,second-key", 401),
        ("Bearer", 401),
        ("first-key", 401),
        ("Basic first-key", 401),
    ],
)
def test_keys(start: Start, value: str, code: int) -> None:
    service = start(api_key=KEYS)
    assert service.http.get("/v1/models", headers={"authorization": value}).status_code == code


def test_keys_of_the_environment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUPELO_API_KEY", " from-outside ")
    service = start()
    assert service.http.get("/v1/models").status_code == 401
    headers = {"authorization": "Bearer from-outside"}
    assert service.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        b"//v1/models",
        b"/v1/models/",
        b"/V1/models",
        b"/%76%31/models",
        b"/health/../v1/models",
        b"/health%2f..%2fv1/models",
        b"/v1/models?x=/health",
        b"/health/",
        b"/health%0a",
        b"/HEALTH",
        b"http://localhost/v1/models",
        b"/v1/models#/health",
    ],
)
@pytest.mark.parametrize("host", [b"localhost", b"x/?", b"x/#", b"x/health?"])
def test_odd_targets_and_hosts_open_nothing(start: Start, target: bytes, host: bytes) -> None:
    service = start(api_key=KEYS)
    reply = exchange(
        service, b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", wait_s=1.0
    )
    assert status(reply) in (0, 400, 401)
    assert b'"data"' not in reply


def test_root_path_is_taken_off_for_guard_and_router_alike(start: Start) -> None:
    service = start(api_key=KEYS, root_path="/llm")
    headers = {"authorization": "Bearer first-key"}
    for prefix in ("/llm", ""):
        assert service.http.get(f"{prefix}/health").status_code == 200
        assert service.http.get(f"{prefix}/v1/models").status_code == 401
        assert service.http.get(f"{prefix}/v1/models", headers=headers).status_code == 200
    assert service.http.get("/llm/v1/nothing", headers=headers).json()["error"]["param"] is None


def test_no_key_in_any_answer(start: Start) -> None:
    service = start(api_key=KEYS)
    headers = {"authorization": "Bearer first-key"}
    for path in ("/server_info", "/model_info", "/v1/models", "/metrics", "/openapi.json", "/live"):
        text = service.http.get(path, headers=headers).text
        assert "first-key" not in text
        assert "second-key" not in text
        assert "/secret" not in text, path


def test_body_limit_with_and_without_a_length(start: Start) -> None:
    service = start(max_body_bytes=1000)
    body = b'{"prompt": "' + b"x" * 2000 + b'"}'
    announced = service.http.post("/v1/completions", content=body)
    chunked = service.http.post("/v1/completions", content=iter([body[:900], body[900:]]))
    for reply in (announced, chunked):
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "request_too_large"


def test_a_lying_length_is_refused_before_its_body(start: Start) -> None:
    service = start(max_body_bytes=1000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
    assert status(exchange(service, head)) == 413


def test_slow_body_ends_in_a_time_out(start: Start) -> None:
    service = start(request_timeout_s=1.0)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    begin = time.monotonic()
    assert status(exchange(service, head, wait_s=10)) == 408
    assert time.monotonic() - begin < 5


def test_slow_head_is_closed(start: Start) -> None:
    service = start(request_timeout_s=1.0)
    assert exchange(service, b"GET /health HTTP/1.1\r\nHost: x\r\n", wait_s=10) == b""


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Big: " + b"a" * 1_000_000 + b"\r\n",
        b"".join(b"X-%d: a\r\n" % i for i in range(100_000)),
        b"".join(b"X-%d: a\r\n" % i for i in range(200)),
        b"Cookie: " + b"a" * 70_000 + b"\r\n",
    ],
    ids=["1 MB", "100,000", "200", "70 kB"],
)
def test_too_much_head_is_refused(service: Service, headers: bytes) -> None:
    reply = exchange(service, b"GET /health HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
    assert status(reply) in (0, 431), "refused, or reset while it was still being sent"
    assert service.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\r\n\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["TLS", "version", "bad chunk", "blank", "star"],
)
def test_what_is_no_request_does_no_harm(service: Service, data: bytes) -> None:
    reply = exchange(service, data, wait_s=1.0)
    assert status(reply) in (0, 400, 404, 405)
    assert service.http.get("/health").status_code == 200
    assert service.engine.requests == []


def test_routes_say_who_may_call_them(service: Service) -> None:
    api = create_api(service.state)
    marked: dict[Access, set[str]] = {access: set() for access in Access}
    for route in api.routes:
        marked[access_of(route)].add(route.path)  # type: ignore[attr-defined]
    assert marked[Access.PUBLIC] == PUBLIC
    assert marked[Access.OPERATOR] == OPERATORS
    assert "/v1/chat/completions" in marked[Access.USER]
    assert api.openapi()["paths"]["/flush_cache"]["post"]["x-access"] == "operator"
