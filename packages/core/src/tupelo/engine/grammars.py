"""Requests that wait for their grammar to be compiled: they hold no slot, no page, and nobody up.

The engine's thread calls everything here; threads of the compiler only put what is done into a
queue and wake the engine.
"""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from tupelo.config import EngineConfig
from tupelo.engine.messages import EngineInfo
from tupelo.errors import InvalidRequest, QueueFull, RequestError
from tupelo.grammar import (
    WHITESPACE,
    GrammarCompiler,
    GrammarOptions,
    Matcher,
    SharedGrammar,
    ThinkingMatcher,
    Vocabulary,
    check_backend,
    read_vocabulary,
    refusal,
)
from tupelo.request import Grammar, Request
from tupelo.text.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose grammar is ready, or why it cannot be served."""

    request: Request
    outcome: Matcher | ThinkingMatcher | RequestError
    arrived_s: float


@dataclass(slots=True)
class _Waiting:
    request: Request
    future: "Future[SharedGrammar]"
    arrived_s: float


class GrammarQueue:
    """Between the arrival of constrained requests and the scheduler.

    Args:
        compiler: compiles. wake: called from any thread when ``take`` has something to give.
        limit: requests that may wait here at once.
    """

    def __init__(self, compiler: GrammarCompiler, wake: Callable[[], None], limit: int) -> None:
        self.compiler = compiler
        self._wake = wake
        self._limit = limit
        self._waiting: dict[str, _Waiting] = {}
        self._done: SimpleQueue[str] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._waiting)

    def has_done(self) -> bool:
        """Whether ``take`` has something to give."""
        return not self._done.empty()

    def submit(self, request: Request) -> None:
        """Have the grammar of a checked request compiled.

        Raises:
            QueueFull: too many requests wait here.
        """
        assert request.grammar is not None
        if len(self._waiting) >= self._limit:
            raise QueueFull(
                f"{len(self._waiting)} requests wait for their grammars; the limit is "
                f"{self._limit}. Try again later"
            )
        future = self.compiler.compile(request.grammar)
        self._waiting[request.rid] = _Waiting(
            request, future, request.arrived_s or time.monotonic()
        )
        rid = request.rid

        def done(_: "Future[SharedGrammar]") -> None:
            self._done.put(rid)
            self._wake()

        future.add_done_callback(done)

    def abort(self, rids: Iterable[str] | None = None) -> list[Request]:
        """Forget these requests, or all; those that waited here. What nobody waits for any more and
        has not begun is not compiled."""
        chosen = list(self._waiting) if rids is None else [r for r in rids if r in self._waiting]
        gone = [self._waiting.pop(rid) for rid in chosen]
        needed = {id(waiting.future) for waiting in self._waiting.values()}
        for waiting in gone:
            if id(waiting.future) not in needed:
                waiting.future.cancel()
        return [waiting.request for waiting in gone]

    def take(self) -> list[Prepared]:
        """Requests that need not wait any longer, in the order in which their grammars compiled."""
        found: list[Prepared] = []
        while True:
            try:
                rid = self._done.get_nowait()
            except Empty:
                return found
            waiting = self._waiting.get(rid)
            # An id that was aborted and came back may still be in the queue from before.
            if waiting is None or not waiting.future.done():
                continue
            del self._waiting[rid]
            found.append(Prepared(waiting.request, _outcome(waiting), waiting.arrived_s))


def open_grammars(
    config: EngineConfig, info: EngineInfo, wake: Callable[[], None]
) -> GrammarQueue | None:
    """What serves grammars, as configured; None where they are switched off.

    The tokenizer is read in a thread, so that grammars cost a start nothing.

    Raises:
        ConfigError: the library is not installed.
    """
    if config.grammar_backend == "none":
        return None

    def vocabulary() -> Vocabulary:
        if not info.tokenizer_path:
            raise InvalidRequest("the model has no tokenizer, so its output cannot be constrained")
        tokenizer = load_tokenizer(info.tokenizer_path)
        return read_vocabulary(tokenizer, info.vocab_size, info.eos_token_ids)

    check_backend(config.grammar_backend)
    whitespace = config.constrained_json_whitespace_pattern or WHITESPACE
    options = GrammarOptions(
        backend="llguidance" if config.grammar_backend == "auto" else config.grammar_backend,
        whitespace="" if config.constrained_json_disable_any_whitespace else whitespace,
        compile_limit_s=config.grammar_compile_limit_s,
        cache_entries=config.grammar_cache_entries,
        cache_bytes=config.grammar_cache_mb << 20,
    )
    compiler = GrammarCompiler(vocabulary, info.vocab_size, options)
    if info.tokenizer_path:
        compiler.prepare()
    return GrammarQueue(compiler, wake, config.max_queued_requests + config.max_running_requests)


def _outcome(waiting: _Waiting) -> Matcher | ThinkingMatcher | RequestError:
    request = waiting.request
    assert request.grammar is not None
    error = waiting.future.exception()
    if isinstance(error, Exception):
        return refusal(request.grammar, error)
    matcher = waiting.future.result().matcher(
        after=request.grammar.after, ignore_eos=request.params.ignore_eos
    )
    return matcher if request.thinking is None else ThinkingMatcher(request.thinking, matcher)


def take_grammar(values: dict[str, Any]) -> Grammar | None:
    """Take the fields that ask for a grammar out of untrusted ``values``; None and empty ask for
    none.

    ``json_schema`` may be text or an object, ``structural_tag`` too, ``choice`` is a list of
    strings, ``regex`` and ``ebnf`` are text.

    Raises:
        InvalidRequest: several are given, or one of a wrong type.
    """
    found: list[Grammar] = []
    for name in ("json_schema", "regex", "ebnf", "structural_tag", "choice"):
        value = values.pop(name, None)
        if value is None or value == "":
            continue
        fits = isinstance(value, str) if name in ("regex", "ebnf") else _is_json(name, value)
        if not fits:
            raise InvalidRequest(f"{name}: got a value of the wrong type", param=name)
        try:
            text = value if isinstance(value, str) else json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            raise InvalidRequest(f"{name}: is no JSON value", param=name) from None
        found.append(Grammar(kind=name, text=text))
    if len(found) > 1:
        names = " and ".join(grammar.kind for grammar in found)
        raise InvalidRequest(f"{names}: at most one of them may be given", param=found[1].kind)
    return found[0] if found else None


def _is_json(name: str, value: object) -> bool:
    return isinstance(value, list if name == "choice" else str | dict | bool)
