"""Random requests: whatever is sent, the answer is one that the server declares, and nothing stays.

Two sources: schemathesis reads the OpenAPI document and makes requests that fit it and requests
that do not; ``odd`` spoils good requests, their heads and their paths. Everything follows from
seeds. A few hundred run by default; ``ci/cpu/fuzz.sh`` runs ten thousand.
"""

import contextlib
import http.client
import itertools
import json
import os
import threading
from collections import Counter
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from tests.security.guarded import Guarded, Keyed
from tests.security.odd import SEEDS, Odd, odd

THREADS = 6
LONG = int(os.environ.get("TUPELO_FUZZ_REQUESTS", "10000"))
OVERLOAD = {429, 503}
"""What may be answered where there is too much to do; both say when to come back."""

FINE = {200, 400, 401, 403, 404, 405, 408, 413, 414, 431, 499, 504}
MAX_GROWTH_BYTES = 128 << 20
TALKING = (
    "/v1/completions",
    "/v1/chat/completions",
    "/generate",
    "/v1/responses",
    "/v1/messages",
    "/api/chat",
    "/api/generate",
)
"""Where good bodies make the model say something."""
SKIPPED = {"/health_generate"}
"""It may take 20 s by design."""


class Tally:
    """What was answered, and what should not have been. Used by several threads."""

    def __init__(self, server: Guarded) -> None:
        self.server = server
        self.seen: Counter[int] = Counter()
        self.wrong: list[str] = []

    def add(self, what: str, status: int, reply: bytes) -> None:
        """Count an answer; status 0 stands for a connection that was closed without one."""
        self.seen[status] += 1
        bad = status not in FINE | OVERLOAD | {0} or b"Traceback" in reply
        if status == 200 and b'"error"' in reply:
            bad = bad or b'"internal_error"' in reply or b'"code":500' in reply
        if bad:
            self.wrong.append(f"{what}: {status} {reply[:300]!r}")

    def check(self, number: int) -> None:
        assert not self.wrong, f"{len(self.wrong)} of {number}:\n" + "\n".join(self.wrong[:10])
        assert sum(self.seen.values()) >= number
        assert self.seen[200] > number // 20, f"too few reach the engine: {self.seen}"
        assert self.seen[0] < number // 4, f"too many are closed unanswered: {self.seen}"


def test_what_is_spoiled_was_good(keyed_served: Keyed) -> None:
    """Otherwise odd requests would all fail at the same first check."""
    with keyed_served.besieged():
        for path in TALKING:
            for body in SEEDS[path]:
                reply = keyed_served.post(path, body)
                assert reply.status_code == 200, (path, body, reply.text)


def test_odd_requests(keyed_served: Keyed) -> None:
    with keyed_served.besieged():
        _odd(keyed_served, range(250))


def test_requests_of_the_document(keyed_served: Keyed) -> None:
    with keyed_served.besieged():
        _documented(keyed_served, 120)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_ten_thousand(keyed_served: Keyed) -> None:
    """Warm up with a tenth, then the rest: memory does not grow with the number of requests."""
    tenth = LONG // 10
    with keyed_served.besieged():
        _odd(keyed_served, range(10_000, 10_000 + tenth))
        memory = keyed_served.resident_bytes()
        seen = _odd(keyed_served, range(20_000, 20_000 + LONG // 2 - tenth))
        print("odd:", dict(sorted(seen.items())))
        seen = _documented(keyed_served, LONG - LONG // 2)
        print("documented:", dict(sorted(seen.items())))
    grown = keyed_served.resident_bytes() - memory
    print(f"{LONG} requests; memory grew by {grown / 2**20:.1f} MiB after the first {tenth}")
    assert grown < MAX_GROWTH_BYTES


def _odd(server: Keyed, numbers: range) -> Counter[int]:
    tally, turn = Tally(server), iter(numbers)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(turn, None)
            if number is None:
                return
            status, reply = _send(server, odd(number))
            tally.add(f"odd({number})", status, reply)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.check(len(numbers))
    return tally.seen


def _send(server: Keyed, request: Odd) -> tuple[int, bytes]:
    """Send one request as it is; its status and reply, as far as it was read."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    path = quote(request.path, safe="/%?=&.:$,-_~*")
    try:
        connection.putrequest(request.method, path, skip_accept_encoding=True, skip_host=True)
        names = {name for name, _ in request.headers}
        for name, value in (
            ("host", "x"),
            ("authorization", f"Bearer {server.alice}"),
            ("content-length", str(len(request.body))),
        ):
            if name not in names:
                connection.putheader(name, value)
        for name, value in request.headers:
            connection.putheader(name, value)
        connection.endheaders(request.body)
        if request.leave_after == 0:
            return 499, b""
        reply = connection.getresponse()
        data = reply.read(request.leave_after) if request.leave_after else reply.read()
        return reply.status, data
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _documented(server: Keyed, number: int) -> Counter[int]:
    """At least ``number`` requests that schemathesis makes of the document."""
    tally = Tally(server)
    document = _cheaper(server.get("/openapi.json").json())
    schema = schemathesis.openapi.from_dict(document)
    operations = [result.ok() for result in schema.get_all_operations()]
    operations = [o for o in operations if o.path not in SKIPPED]
    weights = [_weight(operation) for operation in operations]
    made = turn = 0
    with ThreadRunner(server, tally) as runner:
        while made < number:  # of some operations there are only so many different requests
            share = (number - made) / sum(weights)
            for operation, weight in zip(operations, weights, strict=True):
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    examples = max(1, round(share * weight / 2 + 0.5))
                    made += runner.run(operation, mode, examples, turn)
            turn += 1
    tally.check(number)
    return tally.seen


def _weight(operation: Any) -> int:
    """What reaches the engine or the tokenizer is asked most."""
    if operation.method in ("get", "head") or "x-access" in operation.definition.raw:
        return 1
    return 12 if operation.path in SEEDS else 3


class ThreadRunner:
    """Makes requests one after another, as hypothesis does, and sends them from some threads."""

    def __init__(self, server: Keyed, tally: Tally) -> None:
        self._server, self._tally = server, tally
        self._waiting: list[Any] = []
        self._lock = threading.Semaphore(THREADS)
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "ThreadRunner":
        return self

    def __exit__(self, *error: object) -> None:
        for thread in self._threads:
            thread.join()

    def run(self, operation: Any, mode: GenerationMode, examples: int, turn: int) -> int:
        """So many requests of one operation, of one kind, or all that there are; how many."""
        made: list[Any] = []

        @seed(7 + turn)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def collect(case: Any) -> None:
            made.append(case)

        with contextlib.suppress(Unsatisfiable):  # there is nothing to be wrong about it
            collect()
        for case in made:
            self._lock.acquire()
            thread = threading.Thread(target=self._send, args=(case,))
            self._threads.append(thread)
            thread.start()
        return len(made)

    def _send(self, case: Any) -> None:
        try:
            headers = {"authorization": f"Bearer {self._server.alice}"}
            status, reply = 0, b""
            try:
                response = case.call(
                    base_url=self._server.url, headers=headers, timeout=60, stream=False
                )
                status, reply = response.status_code, response.content
            except (OSError, ValueError, http.client.HTTPException):
                status = 0  # what no client can put on the wire, or a connection that was closed
            curl = case.as_curl_command() if status >= 500 else f"{case.method} {case.path}"
            self._tally.add(curl, status, reply)
        finally:
            self._lock.release()


def _cheaper(document: dict[str, Any]) -> dict[str, Any]:
    """The document with less to generate, so that ten thousand requests take minutes."""
    for path, name in itertools.product(document["paths"].values(), ("post", "put")):
        body = path.get(name, {}).get("requestBody", {})
        for content in body.get("content", {}).values():
            _limit(content["schema"])
    json.dumps(document)
    return document


def _limit(schema: Any) -> None:
    if isinstance(schema, dict):
        for name, high in (("max_tokens", 24), ("max_new_tokens", 24), ("n", 3),
                           ("max_completion_tokens", 24), ("min_tokens", 30),
                           ("max_output_tokens", 24)):  # fmt: skip
            field = schema.get("properties", {}).get(name, {}) if "properties" in schema else {}
            for part in field.get("anyOf", [field]):
                if part.get("type") == "integer":
                    part["maximum"] = high
        for value in schema.values():
            _limit(value)
    elif isinstance(schema, list):
        for value in schema:
            _limit(value)
