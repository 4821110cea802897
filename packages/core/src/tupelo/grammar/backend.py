"""What a grammar library is to the rest: sources in, matchers out, masks for many at once."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tupelo.request import Grammar

Mask = npt.NDArray[np.int32]


class GrammarError(Exception):
    """A grammar that cannot be used; the message is for the client."""


class GrammarTimeout(GrammarError):
    """A grammar that took too long; on another day it may not."""


class State(Protocol):
    """Where one output stands in its grammar."""

    def accept(self, token: int) -> None:
        """Move on by one token; a token that does not fit leaves an ``error``."""
        ...

    def forced(self) -> list[int]:
        """Tokens, canonically chosen, that must follow whatever is sampled."""
        ...

    @property
    def error(self) -> str:
        """Why it cannot go on; empty while it can."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing but the end can follow."""
        ...


class Compiled(Protocol):
    """A grammar that is ready; shared by all of its states."""

    def state(self) -> State:
        """A new state at the beginning."""
        ...


class GrammarBackend(Protocol):
    """One library, set up for one vocabulary."""

    def translate(self, grammar: Grammar) -> str:
        """The library's own source of a grammar. Pure Python; may be slow.

        Raises:
            GrammarError: it cannot be expressed.
        """
        ...

    def compile(self, source: str) -> Compiled:
        """Build a grammar from what ``translate`` gave, and check that something satisfies it.

        Raises:
            GrammarError: broken, too big, or impossible to satisfy.
        """
        ...

    def fill(self, rows: Sequence[tuple[State, int]], mask: Mask) -> None:
        """Write the allowed tokens of each state into its row of ``mask`` (num_rows, words), all
        in parallel; a state that fails has an ``error`` afterwards."""
        ...
