"""The door of structured output: grammars of requests in, matchers and masks out.

Compiling happens in threads, each grammar first in a process that may come to harm (``trial``).
What compiled is kept within bounds of count and bytes, and so is the memory of what did not.
"""

import hashlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tupelo.errors import EngineUnavailable, InvalidRequest, RequestError
from tupelo.grammar.backend import GrammarBackend, GrammarError, GrammarTimeout, Mask
from tupelo.grammar.backends import open_backend
from tupelo.grammar.matcher import TOO_SLOW, MaskFiller, Matcher, SharedGrammar
from tupelo.grammar.options import GrammarOptions
from tupelo.grammar.trial import Trials
from tupelo.grammar.vocabulary import Vocabulary
from tupelo.request import Grammar

logger = logging.getLogger(__name__)

NUM_THREADS = 2
MAX_REFUSED = 4096
"""Refused grammars whose reason is remembered, so that sending one again costs nothing."""

SLOW_FOR_S = 60.0
"""A grammar that took too long is refused for this long before it is tried again."""


@dataclass(frozen=True, slots=True)
class _Library:
    """What is made when the first grammar arrives."""

    backend: GrammarBackend
    filler: MaskFiller
    trials: Trials


class GrammarCompiler:
    """Compiles grammars and keeps them. ``compile``, ``fill`` and ``close`` belong to one thread.

    Args:
        vocabulary: makes the model's vocabulary, when it is first needed, in a thread.
        vocab_size: width of masks in tokens.
        options: of the operator.
    """

    def __init__(
        self, vocabulary: Callable[[], Vocabulary], vocab_size: int, options: GrammarOptions
    ) -> None:
        self._make_vocabulary = vocabulary
        self._num_words = -(-vocab_size // 32)
        self._options = options
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._library: _Library | None = None
        self._ready: OrderedDict[bytes, SharedGrammar] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[GrammarError, float]] = OrderedDict()
        self._running: dict[bytes, Future[SharedGrammar]] = {}
        self._closed = False
        self.num_compiled = 0
        self.num_hits = 0

    def compile(self, grammar: Grammar) -> "Future[SharedGrammar]":
        """The compiled grammar, at once if it is known, else when a thread has compiled it.

        The future raises ``GrammarError``, or a ``RequestError``. It may be cancelled when nobody
        waits any more.
        """
        key = _key(grammar)
        with self._lock:
            known = self._known(key)
            if known is not None:
                self.num_hits += 1
                return known
            running = self._running.get(key)
            if running is not None and not running.cancelled():
                return running
            future = self._threads.submit(self._build, grammar, key)
            self._running[key] = future
        return future

    def prepare(self) -> None:
        """Read the vocabulary now, in a thread, so that the first grammar need not wait for it."""
        self._threads.submit(self._open)

    def fill(self, rows: Sequence[tuple[Matcher, int]], mask: Mask) -> None:
        """See ``MaskFiller.fill``."""
        assert self._library is not None, "matchers come from a library that is open"
        self._library.filler.fill(rows, mask)

    def stats(self) -> dict[str, Any]:
        """Counters and gauges by name."""
        with self._lock:
            return {
                "grammars_cached": len(self._ready),
                "grammars_cached_bytes": sum(g.num_bytes for g in self._ready.values()),
                "grammars_compiled": self.num_compiled,
                "grammar_cache_hits": self.num_hits,
            }

    def close(self) -> None:
        """End threads and processes. Futures that have not run are cancelled."""
        with self._lock:
            self._closed = True
            library = self._library
        if library is not None:
            library.trials.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _known(self, key: bytes) -> "Future[SharedGrammar] | None":
        """A future that is done, if nothing needs to be computed."""
        future: Future[SharedGrammar] = Future()
        if key in self._ready and self._ready[key].too_slow:
            del self._ready[key]
            self._refuse(key, GrammarTimeout(TOO_SLOW))
        if key in self._ready:
            if self._ready[key].worn:
                del self._ready[key]
                return None
            self._ready.move_to_end(key)
            future.set_result(self._ready[key])
            self._evict()  # grammars grow as they are used
            return future
        error, until = self._refused.get(key, (None, 0.0))
        if error is not None and time.monotonic() < until:
            future.set_exception(error)
            return future
        return None

    def _build(self, grammar: Grammar, key: bytes) -> SharedGrammar:
        """In a thread: try, compile, keep."""
        try:
            library = self._open()
            verdict = library.trials.judge(grammar)
            compiled = library.backend.compile(verdict.source)
            shared = SharedGrammar(library.backend, verdict.source, compiled, verdict.seconds)
        except GrammarError as error:
            with self._lock:
                self._running.pop(key, None)
                self._refuse(key, error)
            raise
        except Exception as error:
            with self._lock:
                self._running.pop(key, None)
            if not isinstance(error, RequestError):
                logger.exception("a grammar could not be compiled")
            raise
        with self._lock:
            self._running.pop(key, None)
            self.num_compiled += 1
            self._ready[key] = shared
            self._evict()
        return shared

    def _refuse(self, key: bytes, error: GrammarError) -> None:
        slow = isinstance(error, GrammarTimeout)
        until = time.monotonic() + SLOW_FOR_S if slow else math.inf
        self._refused[key] = (type(error)(str(error)), until)
        while len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def _evict(self) -> None:
        """Drop what was not used for longest, until both bounds hold."""
        total = sum(shared.num_bytes for shared in self._ready.values())
        while len(self._ready) > self._options.cache_entries or (
            total > self._options.cache_bytes and self._ready
        ):
            total -= self._ready.popitem(last=False)[1].num_bytes

    def _open(self) -> _Library:
        with self._opening:
            if self._library is None:
                vocabulary = self._make_vocabulary()
                backend = open_backend(vocabulary, self._options)
                filler = MaskFiller(backend, vocabulary.eos_ids, self._num_words)
                library = _Library(backend, filler, Trials(vocabulary, self._options))
                with self._lock:
                    self._library = library
            if self._closed:
                self._library.trials.close()
                raise EngineUnavailable("the engine is stopping")
            return self._library


def refusal(grammar: Grammar, error: Exception) -> RequestError:
    """What a client is told of a grammar that did not compile."""
    if isinstance(error, RequestError):
        return error
    name = grammar.param or grammar.kind
    if isinstance(error, GrammarError):
        return InvalidRequest(f"{name}: {error}", param=name, code="invalid_grammar")
    return EngineUnavailable(f"{name}: could not be compiled")


def _key(grammar: Grammar) -> bytes:
    digest = hashlib.blake2b(digest_size=32)  # nobody finds two grammars of one key
    for part in (grammar.kind, str(grammar.strict), grammar.text):
        digest.update(part.encode() + b"\0")
    return digest.digest()
