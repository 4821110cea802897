"""When steps ran and what they computed, kept only while somebody looks."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

KEPT_STEPS = 512
"""Steps that are kept at most: at 10 ms a step, those of the last 5 seconds."""

LOOKED_S = 10.0
"""Without a look for this long nothing is kept any more."""


class StepNote(NamedTuple):
    """One step: its number, when it began (the loop's clock, seconds), seconds that it took, and
    its decode rows and prompt tokens."""

    number: int
    began_s: float
    took_s: float
    decode_rows: int
    prompt_tokens: int


class StepJournal:
    """The last steps. One thread uses it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s = 0.0
        self._notes: deque[StepNote] = deque(maxlen=KEPT_STEPS)

    def note(self, number: int, began_s: float, ended_s: float, sizes: tuple[int, int]) -> None:
        """Keep a step that has landed, if somebody has looked lately."""
        if ended_s < self._until_s:
            self._notes.append(StepNote(number, began_s, ended_s - began_s, *sizes))

    def look(self, after: int) -> list[StepNote]:
        """The steps after this number that are known; from now on others are kept for a while."""
        now = self._clock()
        if now >= self._until_s:
            self._notes.clear()
        self._until_s = now + LOOKED_S
        return [note for note in self._notes if note.number > after]
