"""T18: requests that are wrong as HTTP or as JSON, and those of scanners."""

import contextlib
import json
from typing import Any

import pytest
from tests.security import wire
from tests.security.guarded import MAX_BODY_BYTES, Guarded
from tests.security.model import CONTEXT
from tests.security.probe import pulse

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
QUOTES = '""'
GOOD = json.dumps({"prompt": "a", "max_tokens": 1}).encode()

HEADS: dict[str, tuple[bytes, set[int]]] = {
    "a header of 1 MB": (HEAD + b"x: " + b"a" * (1 << 20) + b"\r\n\r\n", {431, 0}),
    "a header name of 1 MB": (HEAD + b"a" * (1 << 20) + b": x\r\n\r\n", {431, 400, 0}),
    "100,000 headers": (HEAD + b"a: b\r\n" * 100_000 + b"\r\n", {431, 0}),
    "200 short headers": (HEAD + b"a: b\r\n" * 200 + b"\r\n", {431}),
    "a path of 1 MB": (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nhost: x\r\n\r\n", {431, 0}),
    "a query of 100 KB": (
        b"GET /health?" + b"a=b&" * 25_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        {431, 0},
    ),
    "a header that never ends": (HEAD + b"x: " + b"a" * (1 << 17), {431, 0}),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), {400}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
    "HTTP/9": (b"GET /health HTTP/9.9\r\nhost: x\r\n\r\n", {400, 505}),
    "an unknown method": (b"BREW /v1/completions HTTP/1.1\r\nhost: x\r\n\r\n", {400}),
    "CONNECT": (b"CONNECT localhost:22 HTTP/1.1\r\nhost: localhost:22\r\n\r\n", {400, 404, 405, 0}),
    "TRACE": (b"TRACE /v1/completions HTTP/1.1\r\nhost: x\r\n\r\n", {405}),
    "a NUL in a header": (HEAD + b"x: a\0b\r\ncontent-length: 0\r\n\r\n", {400}),
    "a NUL in the path": (b"GET /health\0 HTTP/1.1\r\nhost: x\r\n\r\n", {400}),
    "a bare LF": (b"GET /health HTTP/1.1\nhost: x\n\n", {400, 200}),
    "a folded header": (HEAD + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n", {400}),
    "a space before the colon": (HEAD + b"content-length : 0\r\n\r\n", {400}),
    "two lengths": (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", {400}),
    "length and chunks": (
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        {400},
    ),
    "a negative length": (HEAD + b"content-length: -1\r\n\r\n", {400}),
    "a length of 30 digits": (HEAD + b"content-length: " + b"9" * 30 + b"\r\n\r\n", {400, 413}),
    "a length of 1 TB": (HEAD + b"content-length: 1099511627776\r\n\r\n", {413}),
    "an unknown transfer coding": (HEAD + b"transfer-encoding: xyz\r\n\r\nhello", {400}),
}

CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
CHUNKS: dict[str, tuple[bytes, set[int]]] = {
    "no number": (CHUNKED + b"zz\r\nhello\r\n", {400}),
    "a negative size": (CHUNKED + b"-5\r\nhello\r\n", {400}),
    "a size of 30 digits": (CHUNKED + b"f" * 30 + b"\r\nhello\r\n", {400}),
    "a size too small": (CHUNKED + b"2\r\nhello\r\n0\r\n\r\n", {400}),
    "a long extension": (CHUNKED + b"5;" + b"a" * (1 << 20) + b"\r\nhello\r\n0\r\n\r\n", {400, 0}),
    "endless": (CHUNKED + (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 80, {413}),
    "a million of one byte": (CHUNKED + b"1\r\n \r\n" * 1_000_000, {400, 408, 413, 0}),
}


@pytest.mark.parametrize("name", [*HEADS, *CHUNKS])
def test_bad_http(server: Guarded, name: str) -> None:
    data, allowed = (HEADS | CHUNKS)[name]
    reply = wire.exchange(server.url, data)
    assert wire.status(reply) in allowed, reply[:300]
    assert b"Traceback" not in reply


def test_the_slow_are_cut_off(server: Guarded) -> None:
    """Nothing, half a line, half a head, no body, half a chunk: closed after the time they have."""
    sent = (b"", b"GET", HEAD, HEAD + b"content-length: 5\r\n\r\n", CHUNKED + b"5\r\nhel")
    with contextlib.ExitStack() as open_ones:
        clients = [open_ones.enter_context(wire.connect(server.url)) for _ in sent]
        for client, data in zip(clients, sent, strict=True):
            client.sendall(data)
        for client in clients:
            assert wire.closed_within(client, 30) < 20


def test_slow_readers_stop_nobody(server: Guarded) -> None:
    """Thirty clients ask for long streams and read nothing of them."""
    body = json.dumps({"prompt": "a", "max_tokens": 300, "stream": True, "logprobs": 20}).encode()
    connections = [wire.connect(server.url) for _ in range(30)]
    for connection in connections:
        connection.sendall(HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body)
    server.streams.wait_for_a_round()
    for connection in connections:
        connection.close()


BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "half": GOOD[:-1],
    "two": GOOD + GOOD,
    "a list": b"[" + GOOD + b"]",
    "a number": b"1",
    "null": b"null",
    "form data": b"prompt=a&max_tokens=1",
    "UTF-16": GOOD.decode().encode("utf-16"),
    "a byte-order mark": b"\xef\xbb\xbf" + GOOD,
    "Latin-1": b'{"prompt": "\xe9"}',
    "overlong UTF-8": b'{"prompt": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"prompt": "\xed\xa0\x80"}',
    "a lone surrogate": b'{"prompt": "\\ud800"}',
    "an unfinished escape": b'{"prompt": "\\u12"}',
    "a control character": b'{"prompt": "a\x00b"}',
    "100,000 lists": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100,000 lists, open": b'{"prompt": ' + b"[" * 100_000,
    "1,000 lists": b'{"prompt": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "a huge integer": b'{"prompt": "a", "max_tokens": ' + b"9" * 100_000 + b"}",
    "a huge exponent": b'{"prompt": "a", "temperature": 1e' + b"9" * 1000 + b"}",
    "200,000 unknown fields": json.dumps(dict.fromkeys(map(str, range(200_000)), 1)).encode(),
    "a name of 1 MB": json.dumps({"prompt": "a", "x" * (1 << 20): 1}).encode(),
    "comments": b'{"prompt": "a" /* hello */}',
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_bodies(server: Guarded, name: str) -> None:
    for route in ("/v1/completions", "/v1/chat/completions", "/generate", "/tokenize"):
        reply = server.request("POST", route, content=BODIES[name])
        assert reply.status_code == 400, (route, reply.text[:300])
        assert len(reply.content) < 1000
        error = reply.json()["error"]
        if route.startswith("/v1"):
            assert error["type"] == "invalid_request_error"
            assert len(error["message"]) < 600


def test_of_two_equal_keys_the_last_counts(server: Guarded) -> None:
    body = b'{"prompt": "a", "max_tokens": 9, "max_tokens": 2, "ignore_eos": true}'
    reply = server.request("POST", "/v1/completions", content=body)
    assert reply.json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data", ""])
def test_the_content_type_changes_nothing(server: Guarded, kind: str) -> None:
    """Nobody parses a body as something else because of its label."""
    headers = {"content-type": kind}
    reply = server.request("POST", "/v1/completions", content=GOOD, headers=headers)
    assert reply.status_code == 200


def test_a_body_is_limited_announced_or_not(server: Guarded) -> None:
    for size, status in ((MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)):
        data = GOOD + b" " * (size - len(GOOD))
        for content in (data, iter([data[: size // 2], data[size // 2 :]])):
            reply = server.request("POST", "/v1/completions", content=content)
            assert reply.status_code == status
            if status == 413:
                assert reply.json()["error"]["code"] == "request_too_large"


SCANNED = [
    "/.env",
    "/.git/config",
    "/admin",
    "/wp-login.php",
    "/cgi-bin/.%2e/.%2e/.%2e/.%2e/bin/sh",
    "/..%2f..%2f..%2fetc/passwd",
    "/static/../../../../etc/passwd",
    "/v1/models/..%2f..%2f..%2fetc%2fpasswd",
    "/v1/models/%00",
    "/v1/models/" + "a" * 5000,
    "/v1/models/%ff%fe",
    "/docs",
    "/redoc",
    "/actuator/env",
    "/server-status",
    "/?x=${jndi:ldap://127.0.0.1/a}",
    "/debug/pprof/",
    "/api/v1/pods",
    "/v1",
    "/v1/",
    "//",
    "/%",
    "/%zz",
    "/*",
]


@pytest.mark.parametrize("path", SCANNED)
def test_scanners_find_nothing(server: Guarded, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        request = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        reply = wire.exchange(server.url, request.encode())
        expected: set[Any] = {200, 404, 405} if path.startswith("/?") else {404, 405, 400}
        assert wire.status(reply) in expected, (method, reply[:300])
        body = reply.partition(b"\r\n\r\n")[2]
        assert b"root:" not in body
        assert len(body) < 1000


def filled(unit: str) -> str:
    """As many of ``unit`` as a body may have bytes, with commas between."""
    return ",".join([unit] * ((MAX_BODY_BYTES - 200) // (len(unit) + 1)))


FLOODS: dict[str, tuple[str, str]] = {
    "ids": ("/v1/completions", f'{{"prompt": [{filled("1")}]}}'),
    "ids of the native route": ("/generate", f'{{"input_ids": [{filled("1")}]}}'),
    "texts for ids": ("/generate", f'{{"input_ids": [{filled(QUOTES)}]}}'),
    "empty texts": ("/v1/completions", f'{{"prompt": [{filled(QUOTES)}]}}'),
    "empty prompts": ("/v1/completions", f'{{"prompt": [{filled("[]")}]}}'),
    "empty texts to count": ("/tokenize", f'{{"prompt": [{filled(QUOTES)}]}}'),
    "lists to read": ("/detokenize", f'{{"tokens": [{filled("[]")}]}}'),
    "texts to read": ("/detokenize", f'{{"tokens": [{filled(QUOTES)}]}}'),
    "stop strings": ("/v1/completions", f'{{"prompt": "a", "stop": [{filled("1")}]}}'),
    "stop ids": ("/v1/completions", f'{{"prompt": "a", "stop_token_ids": [{filled(QUOTES)}]}}'),
    "messages": ("/v1/chat/completions", f'{{"messages": [{filled("{}")}]}}'),
    "good messages": (
        "/v1/chat/completions",
        f'{{"messages": [{filled(json.dumps({"role": "user", "content": ""}))}]}}',
    ),
    "messages to count": ("/tokenize", f'{{"messages": [{filled("{}")}]}}'),
    "parts": (
        "/v1/chat/completions",
        '{"messages": [{"role": "user", "content": ['
        + filled(json.dumps({"type": "text", "text": ""}))
        + "]}]}",
    ),
    "images": (
        "/v1/chat/completions",
        '{"messages": [{"role": "user", "content": ['
        + filled(json.dumps({"type": "image_url", "image_url": {"url": "data:,"}}))
        + "]}]}",
    ),
    "sampling parameters": ("/generate", f'{{"text": "a", "sampling_params": [{filled("{}")}]}}'),
    "samples of a list": ("/generate", f'{{"text": "a", "rid": [{filled(QUOTES)}]}}'),
    "one long text": ("/v1/completions", f'{{"prompt": "{"a" * (MAX_BODY_BYTES - 200)}"}}'),
    "one long message": (
        "/v1/chat/completions",
        f'{{"messages": [{{"role": "user", "content": "{"a" * (MAX_BODY_BYTES - 200)}"}}]}}',
    ),
    "commas": ("/v1/completions", f'{{"prompt": "{"," * (MAX_BODY_BYTES - 200)}"}}'),
}


def test_floods_of_values_cost_little(server: Guarded) -> None:
    """As much of one thing as a body can hold: refused, without a stop for everybody else."""
    with pulse(server.url):
        for name, (route, body) in FLOODS.items():
            reply = server.request("POST", route, content=body.encode())
            assert reply.status_code == 400, (name, reply.text[:300])
            assert len(reply.content) < 1000, name


def test_many_samples_of_a_long_prompt_are_checked_once(server: Guarded) -> None:
    body = {"prompt": [[7] * (CONTEXT - 1)] * 8, "n": 16, "max_tokens": 1}
    with pulse(server.url):
        reply = server.post("/v1/completions", body)
    assert len(reply.json()["choices"]) == 128
