"""A request's place in its thoughts, which a budget bounds, and in its grammar if it has one."""

import numpy as np
import numpy.typing as npt

from tupelo.grammar.matcher import Matcher
from tupelo.thinking import ThinkingBudget


class ThinkingMatcher:
    """Which tokens a request with a budget may go on with. Used by the engine's thread alone.

    Attributes:
        inner: follows the request's grammar; None if it has none.
    """

    def __init__(self, budget: ThinkingBudget, inner: Matcher | None = None) -> None:
        self.inner = inner
        self._budget = budget
        self._left = budget.max_tokens
        self._inside = budget.inside

    def accept(self, token: int) -> None:
        """Move on by a token that was generated."""
        budget = self._budget
        if self.inner is not None:
            self.inner.accept(token)
        if not self._inside:
            self._inside = token in budget.open_ids
        elif token == budget.close_id or token in budget.also_close_ids:
            self._inside = False
        else:
            self._left -= 1

    def forced(self) -> list[int]:
        """Tokens that must follow whatever is sampled; often none."""
        return [] if self.inner is None or self._spent else self.inner.forced()

    def narrow(self, row: npt.NDArray[np.int32]) -> None:
        """Allow nothing but the closing marker in a row of the mask, (num_words,), if it is due.

        A grammar that does not allow it there has its way.
        """
        if not self._spent:
            return
        word, bit = divmod(self._budget.close_id, 32)
        bits = row.view(np.uint32)
        allowed = bits[word] & np.uint32(1 << bit)
        if allowed:
            bits[:] = 0
            bits[word] = allowed

    @property
    def _spent(self) -> bool:
        return self._inside and self._left <= 0

    @property
    def error(self) -> str:
        """Why it cannot go on; empty while it can."""
        return "" if self.inner is None else self.inner.error

    @property
    def ended(self) -> bool:
        """Whether the output is complete and nothing can follow."""
        return self.inner is not None and self.inner.ended
