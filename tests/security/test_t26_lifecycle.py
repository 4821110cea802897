"""T26: requests that end at every odd moment, processes that are killed, a full disk, a clock that
jumps. Sessions have a file of their own; transfer between servers follows with its feature."""

import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.security import wire
from tests.security.guarded import Guarded, Keyed
from tests.security.test_t02_sockets import folder_of

LONG = {"prompt": "the rain", "max_tokens": 400, "ignore_eos": True}


class Asked:
    """A request sent by a thread."""

    def __init__(self, server: Guarded, rid: str, **more: Any) -> None:
        headers = {"authorization": f"Bearer {server.key}"} if server.key else {}
        body = {**LONG, "rid": rid, **more}

        def run() -> None:
            url = server.url + "/v1/completions"
            self.reply = httpx.post(url, json=body, headers=headers, timeout=60)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def reason(self) -> str:
        """How it ended."""
        self._thread.join(60)
        text: str = self.reply.json()["choices"][0]["finish_reason"]
        return text


def abort(server: Guarded, rid: str) -> None:
    assert server.post("/abort_request", {"rid": rid}).status_code == 200


def test_abort_before_scheduling(keyed: Keyed) -> None:
    """While the engine is paused nothing is scheduled; the streams beside wait, and go on."""
    root = keyed.as_(keyed.root)
    keyed.post("/pause_generation", {"mode": "in_place"}, headers=root)
    try:
        waiting = keyed.metric("tupelo:num_waiting")
        asked = [Asked(keyed, f"early-{number}") for number in range(5)]
        keyed.wait_for(lambda: keyed.metric("tupelo:num_waiting") >= waiting + 5, 20)
        for number in range(5):
            abort(keyed, f"early-{number}")
        assert [one.reason() for one in asked] == ["abort"] * 5
    finally:
        keyed.post("/continue_generation", {}, headers=root)
    keyed.streams.wait_for_a_round()


def test_abort_twice_and_after_the_end(server: Guarded) -> None:
    one = Asked(server, "once", max_tokens=3)
    assert one.reason() == "length"
    for _ in range(3):
        abort(server, "once")
    two = Asked(server, "twice", n=4)
    server.wait_for(lambda: server.metric("tupelo:num_running") > 0, 20)
    for _ in range(50):
        abort(server, "twice")
    assert two.reason() in ("abort", "length")
    abort(server, "never")


def test_aborts_at_every_moment(server: Guarded) -> None:
    """Forty requests, each aborted after another while: in the queue, in its prompt, decoding."""
    asked = []
    for number in range(40):
        rid = f"moment-{number}"
        asked.append(Asked(server, rid, prompt=[7] * (1 + 9 * number), max_tokens=100))
        time.sleep(0.002 * (number % 10))
        abort(server, rid)
        if number % 3 == 0:
            abort(server, rid)
    assert {one.reason() for one in asked} <= {"abort", "length"}


def test_killed_workers_are_replaced(server: Guarded) -> None:
    """The processes that render templates and try grammars may die at any time."""
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    regex = {"prompt": "a", "max_tokens": 8}
    assert server.post("/v1/chat/completions", chat).status_code == 200
    assert server.post("/v1/completions", {**regex, "regex": "[ab]{3}x"}).status_code == 200
    workers = [p for p in server.process.children(recursive=True) if p != server.engine]
    assert len(workers) >= 2
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, timeout=5)
    assert server.post("/v1/chat/completions", chat).status_code == 200
    assert server.post("/v1/completions", {**regex, "regex": "[ab]{3}y"}).status_code == 200


CLOCK = """
import time
_real, _file = time.time, {file!r}
def _time():
    try:
        with open(_file) as file:
            return _real() + float(file.read())
    except (OSError, ValueError):
        return _real()
time.time = _time
time.time_ns = lambda: int(_time() * 1e9)
"""
"""What a server's processes run as they start: their clock goes ahead by what a file says."""


@pytest.fixture(scope="module")
def doomed(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server for what it may not survive; the tests that follow take it in their order."""
    folder = tmp_path_factory.mktemp("doomed")
    (folder / "patch").mkdir()
    (folder / "roots").mkdir()
    (folder / "offset").write_text("0")
    patch = CLOCK.format(file=str(folder / "offset"))
    (folder / "patch" / "sitecustomize.py").write_text(patch)
    paths = [str(folder / "patch"), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    flags = ["--log-requests", "--enable-admin-routes", "--profile-dir", str(folder / "roots")]
    flags += ["--max-request-time-s", "300", "--max-queue-time-s", "300"]
    with Guarded(byte_model, folder, *flags, PYTHONPATH=":".join(paths)) as server:
        yield server


def test_a_clock_that_jumps(doomed: Guarded) -> None:
    """Ten years ahead, then behind, in all processes, while streams and timers run."""
    created = []
    with doomed.besieged():
        for jump in (0.0, 3.2e8, -3.2e8):
            (doomed.folder / "offset").write_text(str(jump))
            headers = {"x-request-timeout-s": "60"}
            body = {"prompt": "a", "max_tokens": 3, "ignore_eos": True}
            reply = doomed.post("/v1/completions", body, headers=headers)
            assert reply.status_code == 200, reply.text
            created.append(reply.json()["created"])
            doomed.still_stands()
        doomed.streams.wait_for_a_round()
    assert created[1] - created[0] > 3e8 > created[2] - created[0], "the clock did jump"
    assert doomed.get("/server_info").json()["uptime_s"] < 3600


def test_a_full_disk(doomed: Guarded) -> None:
    """Not one more byte can be written to a file, the log among them: requests go on."""
    for process in (doomed.process, doomed.engine):
        process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    written = len(doomed.log)
    with doomed.besieged():
        for path, body in (
            ("/v1/completions", {"prompt": "a", "max_tokens": 2}),
            ("/v1/completions", {"prompt": "a", "regex": "[ab]{3}", "max_tokens": 8}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ):
            assert doomed.post(path, body).status_code == 200, path
        for path in ("/start_profile", "/stop_profile"):  # what writes says that it cannot
            assert doomed.post(path, {}).status_code in (200, 400, 500)
    assert len(doomed.log) == written
    for process in (doomed.process, doomed.engine):
        process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_killed_engine(doomed: Guarded) -> None:
    """Every stream hears of it, the server ends, and leaves nothing behind."""
    family = [doomed.process, *doomed.process.children(recursive=True)]
    folder = folder_of(doomed)
    replies: list[str] = []

    def read() -> None:
        url = doomed.url + "/v1/completions"
        with httpx.stream("POST", url, json={**LONG, "stream": True}, timeout=60) as reply:
            replies.append(reply.read().decode())

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    doomed.wait_for(lambda: doomed.metric("tupelo:num_running") == 8, 20)
    doomed.engine.kill()
    for thread in threads:
        thread.join(30)
    assert doomed.exit_code(30) == 1
    assert len(replies) == 8
    for text in replies:
        assert "the engine process died" in text
        assert text.endswith("data: [DONE]\n\n")
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not folder.exists()
    assert "Traceback" not in doomed.log


def test_a_killed_server(byte_model: Path, tmp_path: Path) -> None:
    """Killed without a word: its engine and their workers end by themselves."""
    with Guarded(byte_model, tmp_path) as own:
        chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
        own.post("/v1/chat/completions", chat)
        own.post("/v1/completions", {"prompt": "a", "regex": "[ab]{3}", "max_tokens": 8})
        family = own.process.children(recursive=True)
        assert len(family) >= 3
        own.signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_half_closed_connections_end(server: Guarded) -> None:
    """A client that closes its sending side and waits is answered; one that goes is forgotten."""
    body = json.dumps({"prompt": "a", "max_tokens": 3}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    reply = wire.exchange(server.url, head.encode() + body, half_close=True)
    assert wire.status(reply) in (0, 200)
    with wire.connect(server.url) as connection:
        connection.sendall(head.encode() + body)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
