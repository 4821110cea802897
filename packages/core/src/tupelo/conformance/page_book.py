"""Page tables for the kit: pages handed out in a shuffled order, shared, taken back.

Deliberately apart from ``tupelo.cache``: the kit tests a backend, with tables that are worse than
the allocator's (never ascending, never contiguous).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tupelo.batch import PageDelta

IntArray = npt.NDArray[np.int32]


class PageBook:
    """One page group's tables on the host.

    Args:
        num_pages: that the pool has; ids are handed out in an order shuffled by ``seed``, but for
            the first and the last, which come first: mistakes like to end up there.
        max_pages: longest table.
    """

    def __init__(
        self, num_slots: int, num_pages: int, max_pages: int, page_size: int, seed: int
    ) -> None:
        self.page_size = page_size
        self.table = np.zeros((num_slots + 1, max_pages), np.int32)
        self._counts = [0] * (num_slots + 1)
        order = np.random.default_rng(seed).permutation(np.arange(1, num_pages - 1))
        self._free = [0, num_pages - 1, *(int(page) for page in order)]
        self._changes: list[tuple[int, int, int]] = []

    def pages(self, slot: int) -> list[int]:
        """A slot's pages, in order."""
        return [int(p) for p in self.table[slot, : self._counts[slot]]]

    def set(self, slot: int, pages: Sequence[int]) -> None:
        """Give a slot these pages and no others; what it had is not freed."""
        self._counts[slot] = 0
        for page in pages:
            self._append(slot, page)

    def take(self, count: int) -> list[int]:
        """Free pages, handed out for good."""
        taken, self._free = self._free[:count], self._free[count:]
        assert len(taken) == count, "the kit's pool is too small for its own case"
        return taken

    def grow(self, slot: int, length: int) -> None:
        """Make room for ``length`` tokens in all."""
        for page in self.take(-(-length // self.page_size) - self._counts[slot]):
            self._append(slot, page)

    def drop(self, slot: int, *, reuse: bool) -> None:
        """Forget a slot's pages; with ``reuse`` they are the next to be handed out."""
        if reuse:
            self._free = self.pages(slot) + self._free
        self._counts[slot] = 0

    def mapping(self, slot: int, start: int, count: int) -> IntArray:
        """(count,) pool positions of the tokens from ``start`` on."""
        at = np.arange(start, start + count)
        pages = self.table[slot, at // self.page_size]
        mapping: IntArray = (pages * self.page_size + at % self.page_size).astype(np.int32)
        return mapping

    def delta(self) -> PageDelta:
        """The changes since the last call, as a batch carries them."""
        changes = np.array(self._changes, np.int32).reshape(-1, 3)
        self._changes = []
        return PageDelta(*(np.ascontiguousarray(column) for column in changes.T))

    def _append(self, slot: int, page: int) -> None:
        index = self._counts[slot]
        self.table[slot, index] = page
        self._changes.append((slot, index, page))
        self._counts[slot] += 1
