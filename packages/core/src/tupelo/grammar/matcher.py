"""A request's place in its grammar, and the grammars that requests share."""

import threading
import time
from collections.abc import Sequence

import numpy as np

from tupelo.grammar.backend import Compiled, GrammarBackend, GrammarError, Mask, State

BASE_BYTES = 256 * 1024
BYTES_PER_CHAR = 8
GROWTH_BYTES_PER_S = 150e6
"""Automata grow while masks are computed, and no library says by how much; measured on patterns
whose automaton explodes, they gained 130 MB in a second of computing."""

QUICK_FILL_S = 100e-6
"""A mask that takes no longer than this came out of the automaton as it was."""

MAX_GROWN_BYTES = 32 << 20
"""A grammar that has grown by this much is given up; who needs it next, compiles it anew."""

MAX_REBUILD_S = 0.05
"""A grammar that compiles as quickly as this may be rebuilt between two steps."""

SPARE_S = 0.005
MAX_SLOW_S = 0.5
"""Time beyond ``SPARE_S`` a token that one request may cost all others, added up: a grammar whose
every token makes it slower is stopped then."""

SUSPICIOUS_S = 0.02
AUDITED_STEPS = 8
"""After masks that took this long together, those of some steps are computed one by one, to find
out whose they are."""


TOO_SLOW = "every token makes it slower to follow; make it less ambiguous"


class SharedGrammar:
    """A compiled grammar and what is known of it; the states of many requests share its automaton.

    Attributes:
        source: what the backend compiled. grown_bytes: an estimate of what its use has added.
        too_slow: a request that followed it had to be stopped.
    """

    def __init__(
        self, backend: GrammarBackend, source: str, compiled: Compiled, seconds: float
    ) -> None:
        self.source = source
        self.grown_bytes = 0.0
        self.too_slow = False
        self._backend = backend
        self._compiled = compiled
        self._seconds = seconds
        self._num_states = 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Memory, as far as it can be told."""
        return int(BASE_BYTES + BYTES_PER_CHAR * len(self.source) + self.grown_bytes)

    @property
    def worn(self) -> bool:
        """Whether it should be compiled anew rather than used again."""
        return self.grown_bytes > MAX_GROWN_BYTES

    def matcher(self, *, after: Sequence[int] = (), ignore_eos: bool = False) -> "Matcher":
        """A request's place at the beginning; see ``Matcher``."""
        return Matcher(self, after=after, ignore_eos=ignore_eos)

    def state(self) -> State:
        """A new state of the library's own."""
        with self._lock:
            self._num_states += 1
        return self._compiled.state()

    def private_state(self, tokens: Sequence[int]) -> State | None:
        """A state behind ``tokens`` that shares nothing; None where that cannot help or costs too
        much."""
        if self._num_states < 2 or self._seconds > MAX_REBUILD_S:
            return None
        self.grown_bytes = MAX_GROWN_BYTES + 1.0  # its automaton is full: nobody shall start on it
        try:
            state = self._backend.compile(self.source).state()
        except GrammarError:
            return None
        for token in tokens:
            state.accept(token)
        return state


class Matcher:
    """Which tokens a request may go on with. Used by the engine's thread alone.

    Args:
        after: ids after whose appearance the grammar begins; until then everything is allowed.
        ignore_eos: an end token is allowed only where nothing else is.

    Attributes:
        passive: the grammar has not begun.
    """

    def __init__(
        self, grammar: SharedGrammar, *, after: Sequence[int] = (), ignore_eos: bool = False
    ) -> None:
        self.grammar = grammar
        self.state = grammar.state()
        self.ignore_eos = ignore_eos
        self.passive = bool(after)
        self._after = list(after)
        self._tokens: list[int] = []
        self._recent: list[int] = []
        self._slow_s = 0.0
        self._rebuilt = False

    def accept(self, token: int) -> None:
        """Move on by a token that was generated."""
        if self.passive:
            self._recent = [*self._recent, token][-len(self._after) :]
            self.passive = self._recent != self._after
            return
        began = time.thread_time()
        self._tokens.append(token)
        self.state.accept(token)
        if self.state.error:
            self.rebuild()
        self.took(time.thread_time() - began)

    def took(self, seconds: float) -> None:
        """Account for time that all others had to wait."""
        self._slow_s += max(0.0, seconds - SPARE_S)
        if self._slow_s > MAX_SLOW_S:
            self.grammar.too_slow = True

    def forced(self) -> list[int]:
        """Tokens that must follow whatever is sampled; often none."""
        return [] if self.passive or self.error or self.ended else self.state.forced()

    def rebuild(self) -> bool:
        """After an error that others may have caused, by filling the automaton that all share:
        start over on one of its own. False if that does not help."""
        if self._rebuilt:
            return False
        self._rebuilt = True
        state = self.grammar.private_state(self._tokens)
        if state is None or state.error:
            return False
        self.state = state
        return True

    @property
    def error(self) -> str:
        """Why it cannot go on; empty while it can."""
        if self._slow_s > MAX_SLOW_S:
            return TOO_SLOW
        return self.state.error

    @property
    def ended(self) -> bool:
        """Whether the output is complete and nothing can follow."""
        return not self.passive and self.state.ended


class MaskFiller:
    """Computes the masks of a step's rows together.

    Args:
        backend: of every matcher. eos_ids: the end tokens. num_words: 32-bit words of a row.
    """

    def __init__(self, backend: GrammarBackend, eos_ids: Sequence[int], num_words: int) -> None:
        self._backend = backend
        self._audits = 0
        self._not_eos = np.full(num_words, -1, np.int32)
        bits = self._not_eos.view(np.uint32)
        for token in eos_ids:
            bits[token // 32] &= ~np.uint32(1 << token % 32)

    def fill(self, rows: Sequence[tuple[Matcher, int]], mask: Mask) -> None:
        """Write each matcher's allowed tokens into its row of ``mask`` (num_rows, num_words).

        Rows of passive matchers stay as they are. A matcher that fails has an ``error`` afterwards.
        """
        active = [(matcher, row) for matcher, row in rows if not matcher.passive]
        if not active:
            return
        if self._audits:
            self._audits -= 1
            for matcher, row in active:
                matcher.took(self._timed([(matcher, row)], mask))
        elif self._timed(active, mask) > SUSPICIOUS_S:
            self._audits = AUDITED_STEPS
        again = [(m, r) for m, r in active if m.state.error and m.rebuild()]
        if again:
            self._backend.fill([(matcher.state, row) for matcher, row in again], mask)
        for matcher, row in active:
            if matcher.ignore_eos:
                without = mask[row] & self._not_eos
                if without.any():
                    mask[row] = without

    def _timed(self, rows: Sequence[tuple[Matcher, int]], mask: Mask) -> float:
        """Fill, and return the seconds that it took.

        Whoever needs more than a look-up has made an automaton grow.
        """
        began = time.process_time()  # of all threads, and not of other processes
        self._backend.fill([(matcher.state, row) for matcher, row in rows], mask)
        seconds = time.process_time() - began
        beyond = seconds - QUICK_FILL_S * len(rows)
        if beyond > 0:
            grammars = {matcher.grammar for matcher, _ in rows}
            for grammar in grammars:
                grammar.grown_bytes += beyond * GROWTH_BYTES_PER_S / len(grammars)
        return seconds
