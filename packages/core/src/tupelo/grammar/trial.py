"""Compiling a grammar where it can do no harm, within a time limit; blocks the calling thread."""

import os
import select
import subprocess
import sys
import threading
import time

import msgspec

from tupelo.errors import EngineUnavailable
from tupelo.grammar.backend import GrammarError, GrammarTimeout
from tupelo.grammar.options import GrammarOptions
from tupelo.grammar.vocabulary import Vocabulary
from tupelo.grammar.worker import LENGTH, Setup, Verdict
from tupelo.request import Grammar

START_LIMIT_S = 60.0


class Trials:
    """A few worker processes, started as they are needed and kept. Safe for several threads."""

    def __init__(self, vocabulary: Vocabulary, options: GrammarOptions) -> None:
        self._options = options
        self._setup = msgspec.msgpack.encode(
            Setup(
                tokens=list(vocabulary.tokens),
                special_ids=list(vocabulary.special_ids),
                eos_ids=list(vocabulary.eos_ids),
                options=options,
            )
        )
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    def judge(self, grammar: Grammar) -> Verdict:
        """Compile ``grammar`` once in a process of its own.

        Raises:
            GrammarError: it is broken, or takes too much memory. GrammarTimeout: too much time.
            EngineUnavailable: there is no process for it.
        """
        worker = self._take()
        try:
            verdict = worker.exchange(
                msgspec.msgpack.encode(grammar), time.monotonic() + self._options.compile_limit_s
            )
        except TimeoutError:
            self._drop(worker)
            raise GrammarTimeout(
                f"takes longer to compile than {self._options.compile_limit_s:g} s; simplify it"
            ) from None
        except (EOFError, OSError):
            self._drop(worker)
            raise GrammarError(
                "takes too much memory or nesting to be compiled; simplify it"
            ) from None
        self._give_back(worker)
        if verdict.error:
            raise GrammarError(verdict.error)
        return verdict

    def close(self) -> None:
        """End all processes, whatever they are at."""
        with self._lock:
            self._closed = True
            for worker in self._busy:  # whoever waits for it sees its end, and cleans up
                worker.end()
            for worker in self._idle:
                worker.kill()
            self._idle.clear()

    def _take(self) -> "_Worker":
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None or not worker.alive():
            if worker is not None:
                worker.kill()
            worker = _Worker(self._setup)
        with self._lock:
            if not self._closed:
                self._busy.add(worker)
                return worker
        worker.kill()
        raise EngineUnavailable("the engine is stopping")

    def _give_back(self, worker: "_Worker") -> None:
        with self._lock:
            self._busy.discard(worker)
            if not self._closed:
                self._idle.append(worker)
                return
        worker.kill()

    def _drop(self, worker: "_Worker") -> None:
        with self._lock:
            self._busy.discard(worker)
        worker.kill()


class _Worker:
    """One process and its two pipes. Used by one thread at a time."""

    def __init__(self, setup: bytes) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tupelo.grammar.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise EngineUnavailable(f"no process for grammars: {error.strerror}") from error
        try:
            self.exchange(setup, time.monotonic() + START_LIMIT_S)
        except (TimeoutError, EOFError, OSError) as error:
            self.kill()
            raise EngineUnavailable("the process for grammars did not start") from error

    def exchange(self, data: bytes, deadline: float) -> Verdict:
        """Send a message and wait for its answer.

        Raises:
            TimeoutError: none came in time. EOFError, OSError: the process is gone.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(LENGTH.pack(len(data)) + data)
        self._process.stdin.flush()
        size = LENGTH.unpack(self._read(LENGTH.size, deadline))[0]
        return msgspec.msgpack.decode(self._read(size, deadline), type=Verdict)

    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()

    def kill(self) -> None:
        """End the process, and give back all that belongs to it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # the last write to a dead process: nothing is lost
                continue

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        data = bytearray()
        while len(data) < size:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError
            chunk = os.read(pipe, size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)
