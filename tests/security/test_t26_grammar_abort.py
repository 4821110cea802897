"""T26: clients that leave, or abort, while their grammar is being compiled."""

import threading
import time

import httpx
import pytest
from tests.security.grammars import body_for, warm
from tests.security.guarded import Guarded
from tests.unit.grammar.schemas import REFUSED

SLOW, _ = REFUSED["passes the check and takes for ever"]


def slow(number: int) -> dict[str, object]:
    """A schema that nobody sent before, and that compiles until it is stopped."""
    return {**SLOW, "title": f"slow {number}"}


def waiting(server: Guarded) -> float:
    return server.metric("tupelo:num_grammar_waiting")


def test_a_client_that_leaves(server: Guarded) -> None:
    warm(server)
    for number in range(3):
        body = body_for("/v1/completions", "json_schema", slow(number), stream=number % 2 == 0)
        with pytest.raises(httpx.ReadTimeout):
            server.post("/v1/completions", body, timeout=0.3)
    server.wait_for(lambda: waiting(server) == 0, 20)
    warm(server)


def test_an_abort_by_id(server: Guarded) -> None:
    warm(server)
    replies: list[httpx.Response] = []
    body = {**body_for("/generate", "json_schema", slow(100)), "rid": "compiling"}
    thread = threading.Thread(target=lambda: replies.append(server.post("/generate", body)))
    thread.start()
    server.wait_for(lambda: waiting(server) == 1, 20)
    began = time.monotonic()
    for _ in range(2):
        assert server.post("/abort_request", {"rid": "compiling"}).status_code == 200
    thread.join(20)
    assert replies, f"it still waits after {time.monotonic() - began:.1f} s"
    assert "aborted" in replies[0].text
    server.wait_for(lambda: waiting(server) == 0, 20)
    warm(server)


def test_the_last_of_several_that_wait_for_one_grammar(server: Guarded) -> None:
    """Two wait for the same; one leaves; the other gets its answer."""
    warm(server)
    body = body_for("/v1/completions", "json_schema", slow(200))
    replies: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: replies.append(server.post("/v1/completions", body)))
    thread.start()
    with pytest.raises(httpx.ReadTimeout):
        server.post("/v1/completions", body, timeout=0.3)
    thread.join(30)
    assert replies[0].status_code == 400
    assert "longer to compile" in replies[0].text
