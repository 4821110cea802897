"""The engine's process: receives messages, runs steps, sends outputs; started by ``EngineClient``.

Started as ``python -m tupelo.engine.worker FOLDER``, with the configuration as JSON in the first
line of standard input. ``FOLDER`` is private to this user and holds two unix sockets. The process
ends when told to, and when standard input closes, which happens when its parent dies.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import msgspec
import zmq

from tupelo import heap
from tupelo.config import EngineConfig
from tupelo.engine.build import build
from tupelo.engine.core import EngineCore
from tupelo.engine.logs import set_up_logging
from tupelo.engine.messages import (
    HEARTBEAT_S,
    FromEngine,
    Heartbeat,
    Progress,
    StartFailed,
    decode_to_engine,
    encode,
)
from tupelo.errors import TupeloError

logger = logging.getLogger(__name__)

TO_ENGINE, FROM_ENGINE = "to-engine", "from-engine"
"""Names of the two sockets in the private folder. Whoever receives binds: a stranger who connects
can send what is dropped, but takes no message from anybody."""

MAX_MESSAGES_A_STEP = 256
"""Messages that are taken in between two steps."""

POLL_MS = 1
"""Milliseconds between two looks at how long a message is worth waiting for."""

MAX_RECEIVE_S = 0.005
"""After this long the next step comes before the next message: long prompts take long to decode,
and others' tokens do not wait for a thousand of them."""


class Worker:
    """Sockets, heartbeat and the loop over messages and steps."""

    def __init__(self, folder: Path, config: EngineConfig) -> None:
        self._config = config
        self._context = zmq.Context()
        self._folder = folder
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.bind(f"ipc://{folder / TO_ENGINE}")
        self._outbox = self._push_socket()
        self._wake_end, self._waker = socket.socketpair()
        self._core: EngineCore | None = None
        self.num_dropped = 0

    def run(self) -> int:
        """Build the engine and serve until told to stop. Returns the exit code."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        try:
            built = build(
                self._config,
                on_progress=lambda phase, fraction: self._send(Progress(phase, fraction)),
                show_bars=sys.stderr.isatty(),
            )
        except TupeloError as error:
            return self._fail(type(error).__name__, str(error))
        except Exception as error:  # a defect, ours or a vendor's: the parent must still hear of it
            logger.exception("the engine could not start")
            return self._fail("EngineUnavailable", f"{type(error).__name__}: {error}")
        self._core = EngineCore(built, self._wake)
        heap.set_aside()
        self._send(built.info)
        while not self._core.stopping:
            self._receive(self._core)
            if self._core.has_work():
                for message in self._core.step():
                    self._send(message)
        self._core.close()
        self._outbox.close(linger=1000)
        return 0

    def _fail(self, kind: str, message: str) -> int:
        self._send(StartFailed(kind, message))
        self._outbox.close(linger=2000)
        return 2

    def _receive(self, core: EngineCore) -> None:
        """Take in waiting messages; wait for one when idle, or where the next step is better
        late."""
        if not core.has_work():
            self._sleep()
        self._take(core)
        while 1e3 * core.patience_s() >= POLL_MS:
            if self._inbox.poll(POLL_MS):
                self._take(core)

    def _take(self, core: EngineCore) -> None:
        """Act on the messages that are there, for ``MAX_RECEIVE_S`` at most if steps wait."""
        stop_s = time.monotonic() + MAX_RECEIVE_S
        for _ in range(MAX_MESSAGES_A_STEP):
            try:
                data = self._inbox.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode_to_engine(data)
            except msgspec.DecodeError as error:
                self.num_dropped += 1
                logger.warning("dropped a message that is none: %s", error)
                continue
            for answer in core.handle(message):
                self._send(answer)
            if time.monotonic() > stop_s and core.has_work():
                return

    def _sleep(self) -> None:
        """Until a message comes, or a thread calls ``_wake``."""
        poller = zmq.Poller()
        poller.register(self._inbox, zmq.POLLIN)
        poller.register(self._wake_end, zmq.POLLIN)
        if self._wake_end.fileno() in dict(poller.poll()):
            self._wake_end.recv(4096)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full: whoever sleeps will wake anyway
            self._waker.send(b"x", socket.MSG_DONTWAIT)

    def _send(self, message: FromEngine) -> None:
        self._outbox.send(encode(message))

    def _push_socket(self) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.PUSH)
        socket.set_hwm(0)
        socket.connect(f"ipc://{self._folder / FROM_ENGINE}")
        return socket

    def _beat(self) -> None:
        """Say every ``HEARTBEAT_S`` that the process lives, and how old its step is."""
        socket = self._push_socket()
        while True:
            number, age = 0, 0.0
            if self._core is not None:
                number, started = self._core.loop.step_number, self._core.loop.step_started_s
                age = time.monotonic() - started if started else 0.0
            socket.send(encode(Heartbeat(number, age)))
            time.sleep(HEARTBEAT_S)


def _end_with_parent() -> None:
    """Leave at once when standard input closes: the parent is gone, and nobody can use this
    process."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> int:
    """Entry point of the engine's process."""
    # A terminal's Ctrl-C reaches every process of the group; the parent decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = msgspec.json.decode(sys.stdin.buffer.readline())
    set_up_logging(first["log_level"], first["log_format"], process="engine rank 0")
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    return Worker(Path(sys.argv[1]), EngineConfig(**first["config"])).run()


if __name__ == "__main__":
    sys.exit(main())
