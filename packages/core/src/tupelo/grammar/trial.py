"""Compiling a grammar where it can do no harm, within a time limit; blocks the calling thread."""

import sys
import threading
import time

import msgspec

from tupelo.errors import EngineUnavailable
from tupelo.grammar.backend import GrammarError, GrammarTimeout
from tupelo.grammar.options import GrammarOptions
from tupelo.grammar.vocabulary import Vocabulary
from tupelo.grammar.worker import Setup, Verdict
from tupelo.process import AskedProcess
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
        self._idle: list[AskedProcess] = []
        self._busy: set[AskedProcess] = set()
        self._closed = False

    def judge(self, grammar: Grammar) -> Verdict:
        """Compile ``grammar`` once in a process of its own.

        Raises:
            GrammarError: it is broken, or takes too much memory. GrammarTimeout: too much time.
            EngineUnavailable: there is no process for it.
        """
        worker = self._take()
        try:
            reply = worker.ask(
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
        verdict = msgspec.msgpack.decode(reply, type=Verdict)
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

    def _take(self) -> AskedProcess:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None or not worker.alive():
            if worker is not None:
                worker.kill()
            worker = _start(self._setup)
        with self._lock:
            if not self._closed:
                self._busy.add(worker)
                return worker
        worker.kill()
        raise EngineUnavailable("the engine is stopping")

    def _give_back(self, worker: AskedProcess) -> None:
        with self._lock:
            self._busy.discard(worker)
            if not self._closed:
                self._idle.append(worker)
                return
        worker.kill()

    def _drop(self, worker: AskedProcess) -> None:
        with self._lock:
            self._busy.discard(worker)
        worker.kill()


def _start(setup: bytes) -> AskedProcess:
    """A process that has taken the vocabulary in.

    Raises:
        EngineUnavailable: there is none.
    """
    try:
        worker = AskedProcess([sys.executable, "-P", "-m", "tupelo.grammar.worker"])
    except OSError as error:
        raise EngineUnavailable(f"no process for grammars: {error.strerror}") from error
    try:
        worker.ask(setup, time.monotonic() + START_LIMIT_S)
    except (TimeoutError, EOFError, OSError) as error:
        worker.kill()
        raise EngineUnavailable("the process for grammars did not start") from error
    return worker
