"""Eight seeded streams that run beside a test, each compared with the same stream run in quiet.

The server must be batch-invariant: then what a stream says depends on nothing but its request, down
to the last bit of its log-probabilities, and a byte that differs means that another request got
at it.
"""

import http.client
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

NUM_STREAMS = 8
NUM_TOKENS = 32
_PAUSE_S = (0.1, 0.7)
_TIMEOUT_S = 60.0
_STARVED = b"the chat template took longer than"
_CHANGING = re.compile(rb'"created":\d+,')


class Streams:
    """The streams of one server, each in a thread that asks again and again while ``running``.

    Attributes:
        rounds: for each stream, how often it was compared.
        refused: for each stream, how often it met a declared overload, and tried again.
    """

    def __init__(self, url: str, *, key: str = "") -> None:
        """Run each stream once in quiet, and keep what it said. ``key``: the API key to send."""
        self._url = urlsplit(url)
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self.rounds = [0] * NUM_STREAMS
        self.refused = [0] * NUM_STREAMS
        self._differences: list[str] = []
        self._quiet = [self._ask(number) for number in range(NUM_STREAMS)]
        assert len(set(self._quiet)) == NUM_STREAMS
        for number, text in enumerate(self._quiet):
            assert text.endswith(b"data: [DONE]\n\n"), f"stream {number}: {text[-300:]!r}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let them run; at the end each has been compared at least once meanwhile."""
        ending = threading.Event()
        before = list(self.rounds)
        threads = [
            threading.Thread(target=self._repeat, args=(number, ending), daemon=True)
            for number in range(NUM_STREAMS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join(_TIMEOUT_S)
        assert not any(thread.is_alive() for thread in threads), "a stream hangs"
        self.check()
        assert all(now > then for now, then in zip(self.rounds, before, strict=True))

    def check(self) -> None:
        """Whether all were as in quiet, up to now.

        Raises:
            AssertionError: the first difference, once: the next test starts afresh.
        """
        found, self._differences = self._differences, []
        assert not found, f"{len(found)} background streams changed; the first: {found[0]}"

    def wait_for_a_round(self) -> None:
        """Wait until each stream that began after this call has been compared."""
        before = list(self.rounds)
        limit = time.monotonic() + _TIMEOUT_S
        while not all(now > then + 1 for now, then in zip(self.rounds, before, strict=True)):
            assert time.monotonic() < limit, f"streams hang: {self.rounds}, were {before}"
            time.sleep(0.02)
        self.check()

    def _repeat(self, number: int, ending: threading.Event) -> None:
        draw = random.Random(number)
        while True:
            try:
                got = self._ask(number)
            except (OSError, http.client.HTTPException) as error:
                got = repr(error).encode()
            if got != self._quiet[number]:
                self._differences.append(_difference(number, got, self._quiet[number]))
            self.rounds[number] += 1
            if ending.wait(draw.uniform(*_PAUSE_S)):
                return

    def _ask(self, number: int) -> bytes:
        """The events of a stream, without the time of day."""
        route, body = _request(number)
        limit = time.monotonic() + _TIMEOUT_S
        while True:
            connection = http.client.HTTPConnection(
                self._url.hostname or "", self._url.port, timeout=_TIMEOUT_S
            )
            try:
                connection.request("POST", route, json.dumps(body), self._headers)
                reply = connection.getresponse()
                data = reply.read()
            finally:
                connection.close()
            # A template that is stopped for its time, on a machine that is busy with this very
            # test's costly ones, is an overload too; what counts is that a reply is the same.
            busy = reply.status in (429, 503) or (reply.status == 400 and _STARVED in data)
            if not busy or time.monotonic() > limit:
                return _CHANGING.sub(b"", data)
            self.refused[number] += 1
            time.sleep(0.05)


def _request(number: int) -> tuple[str, dict[str, Any]]:
    """Stream ``number``: each is of another kind, all are sampled from one seed."""
    draw = random.Random(number)
    words = " ".join(draw.choice(["the", "rain", "in", "hotel", "and"]) for _ in range(8 + number))
    body: dict[str, Any] = {
        "rid": f"background-{number}",
        "model": "background",
        "max_tokens": NUM_TOKENS,
        "stream": True,
        "seed": 100 + number,
        "temperature": 0.7 + 0.1 * number,
        "ignore_eos": True,
    }
    more: list[dict[str, Any]] = [
        {"logprobs": 3},
        {"top_p": 0.8, "logprobs": 0},
        {"frequency_penalty": 0.6, "presence_penalty": 0.3, "logprobs": 1},
        {"logit_bias": {"40": 5, "41": -100}, "top_k": 50},
        {"stop": ["no such text", "zzzzzz"], "repetition_penalty": 1.2, "logprobs": 1},
        {"temperature": 0, "echo": True, "logprobs": 2},
    ]
    if number < len(more):
        return "/v1/completions", {**body, "prompt": words, **more[number]}
    chat = {"messages": [{"role": "user", "content": words}], "logprobs": True, "top_logprobs": 2}
    return "/v1/chat/completions", {**body, **chat}


def _difference(number: int, got: bytes, want: bytes) -> str:
    place = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), len(want))
    start = max(0, place - 60)
    shown = (got[start : place + 160], want[start : place + 60])
    return f"stream {number} at byte {place} of {len(want)}: got {shown[0]!r}, want {shown[1]!r}"
