"""T10, what there is of it: bodies that would fill the memory. Media follow with their feature."""

import contextlib
import json
import socket

from tests.security import wire
from tests.security.guarded import MAX_BODY_BYTES, Guarded

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
ROOM = 16
"""Bodies of the largest size that may be arriving at a time."""


def test_bodies_that_never_end_fill_no_memory(server: Guarded) -> None:
    """Forty clients send all but the end of the largest body: some are told to come back."""
    memory = server.resident_bytes()
    chunk = b" " * (MAX_BODY_BYTES - 1)
    head = HEAD + b"content-length: %d\r\n\r\n" % MAX_BODY_BYTES
    with contextlib.ExitStack() as held:
        clients: list[socket.socket] = []
        most = 0
        for _ in range(40):
            client = held.enter_context(wire.connect(server.url))
            with contextlib.suppress(OSError):  # refused while it was being sent
                client.sendall(head + chunk)
            clients.append(client)
            most = max(most, server.resident_bytes() - memory)
        # What uvicorn and the sockets hold back does not count here.
        assert most < (ROOM + 12) * MAX_BODY_BYTES, f"{most >> 20} MiB"
        seen = [wire.status(wire.read(client, 10)) for client in clients]
    assert set(seen) <= {0, 408, 429}
    assert 429 in seen
    good = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert good.status_code == 200


def test_whole_bodies_count_no_longer(server: Guarded) -> None:
    """Forty large bodies one after another, of requests that go on: none is refused."""
    body = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
    for _ in range(40):
        content = body + b" " * (MAX_BODY_BYTES - len(body))
        assert server.request("POST", "/v1/completions", content=content).status_code == 200


def test_bodies_for_nobody(server: Guarded) -> None:
    """Routes that read none, and routes that are not there, do not wait for the end of one."""
    for path in ("/health", "/v1/models", "/nothing", "/v1/models/x"):
        request = f"GET {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {MAX_BODY_BYTES}\r\n\r\n"
        reply = wire.exchange(server.url, request.encode() + b" " * 1000)
        assert wire.status(reply) in (200, 404), reply[:200]
