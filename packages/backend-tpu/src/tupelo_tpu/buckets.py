"""The closed set of sizes that steps are padded to.

XLA compiles a program for each size, so there are few: decode steps at powers of two of rows,
steps with prompts at powers of two of tokens, with room for every slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tupelo.backend.packing import StepLayout
from tupelo.batch import Batch, Bucket

SMALLEST_ROWS, SMALLEST_TOKENS = 8, 16

MORE_CHANGES = 256
"""Page changes that are sent at once where a step brings more than usual."""


def ladder(smallest: int, largest: int) -> tuple[int, ...]:
    """``smallest`` and its doubles, until one holds ``largest``."""
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def at_least(sizes: Sequence[int], wanted: int) -> int:
    """The smallest of ``sizes`` that holds ``wanted``; beyond the last one, its doubles."""
    for size in sizes:
        if size >= wanted:
            return size
    return ladder(sizes[-1], wanted)[-1]


@dataclass(frozen=True, slots=True)
class Buckets:
    """The sizes of one runner.

    Attributes:
        rows: of decode steps; the last holds every slot.
        tokens: of steps with prompts, which are padded to ``rows[-1]`` rows.
    """

    rows: tuple[int, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, num_slots: int, max_tokens: int) -> "Buckets":
        """For so many slots, and so many prompt tokens a step beside a decode row in each."""
        return cls(
            ladder(SMALLEST_ROWS, num_slots), ladder(SMALLEST_TOKENS, max_tokens + num_slots)
        )

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        """The padded sizes of a step."""
        if num_tokens == num_rows:
            rows = at_least(self.rows, num_rows)
            return Bucket(rows, rows)
        return Bucket(at_least(self.tokens, num_tokens), at_least(self.rows[-1:], num_rows))

    def all(self) -> tuple[Bucket, ...]:
        """Every bucket, the largest first."""
        most = self.rows[-1]
        prompts = [Bucket(tokens, most) for tokens in reversed(self.tokens)]
        return tuple(dict.fromkeys([*prompts, *(Bucket(n, n) for n in reversed(self.rows))]))


def step_layout(batch: Batch, page_size: int, scratch_slot: int, max_pages: int) -> StepLayout:
    """Of a step with a bucket, on which alone its sizes depend, and on whether there are token
    types. A row opens at most one page more than it fills: so many changes have a place."""
    own = StepLayout.of(batch, scratch_slot, max_pages)
    return replace(own, changes=(own.rows + own.tokens // page_size,) * len(own.changes))


def excess(layout: StepLayout, batch: Batch) -> list[tuple[int, int]]:
    """Group and place of the first of each ``MORE_CHANGES`` page changes that the layout has no
    place for: cached prefixes bring many pages at once."""
    return [
        (group, start)
        for group, delta in enumerate(batch.page_deltas)
        for start in range(layout.changes[group], len(delta.pages), MORE_CHANGES)
    ]
