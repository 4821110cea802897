"""The pages of one page group: which are free, owned by a request, or cached in the tree.

Owns page ids and their states, nothing on a device. Every call takes or returns whole arrays of
page ids and costs O(number of pages in the call).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

PageArray = npt.NDArray[np.int32]

FREE: Final = 0
OWNED: Final = 1
CACHED: Final = 2
_STATE_NAMES = ("free", "owned", "cached")

ABSENT: Final = -1
"""Stands in a page array where a window group holds no page (any more)."""


class PageAllocator:
    """Page ids ``0 … num_pages - 1``, each free, owned or cached.

    A cached page may be locked any number of times (used for window groups, whose pages are
    locked one by one; pages of full groups are protected by the tree's nodes).

    Attributes:
        num_pages: pages that exist.
        state: ``(num_pages,)``, int8, FREE, OWNED or CACHED. Read only for others.
        locks: ``(num_pages,)``, int32, how often each page is locked. Read only for others.
        num_locked: cached pages that are locked at least once.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.state = np.full(num_pages, FREE, dtype=np.int8)
        self.locks = np.zeros(num_pages, dtype=np.int32)
        self.num_locked = 0
        self._counts = [num_pages, 0, 0]
        # The free pages are _stack[: num_free]; low ids are handed out first.
        self._stack: PageArray = np.arange(num_pages - 1, -1, -1, dtype=np.int32)
        self._seen = np.zeros(num_pages, dtype=np.int32)

    @property
    def num_free(self) -> int:
        """Pages that ``alloc`` can hand out."""
        return self._counts[FREE]

    @property
    def num_owned(self) -> int:
        """Pages that belong to one request."""
        return self._counts[OWNED]

    @property
    def num_cached(self) -> int:
        """Pages that belong to the tree."""
        return self._counts[CACHED]

    def alloc(self, count: int) -> PageArray:
        """Take ``count <= num_free`` pages; the caller owns them. Returns ``(count,)``, int32."""
        assert 0 <= count <= self.num_free, f"{count} pages wanted, {self.num_free} are free"
        top = self.num_free
        pages = self._stack[top - count : top][::-1].copy()
        self._move(pages, FREE, OWNED)
        return pages

    def free(self, pages: PageArray, *, state: int) -> None:
        """Give back ``pages``, all of which are in ``state`` (OWNED, or CACHED and unlocked)."""
        assert not self.locks[pages].any(), "a locked page is freed"
        top = self.num_free
        self._move(pages, state, FREE)
        self._stack[top : top + len(pages)] = pages

    def cache(self, pages: PageArray) -> None:
        """Hand owned ``pages`` to the tree."""
        self._move(pages, OWNED, CACHED)

    def reclaim(self, pages: PageArray) -> None:
        """Hand cached, unlocked ``pages`` back to a request."""
        assert not self.locks[pages].any(), "a locked page is taken from the tree"
        self._move(pages, CACHED, OWNED)

    def lock(self, pages: PageArray) -> None:
        """Lock distinct cached ``pages`` once more."""
        assert (self.state[pages] == CACHED).all(), "only a cached page can be locked"
        self.num_locked += int(np.count_nonzero(self.locks[pages] == 0))
        self.locks[pages] += 1

    def unlock(self, pages: PageArray) -> None:
        """Undo one ``lock`` of distinct ``pages``."""
        assert (self.locks[pages] > 0).all(), "a page is unlocked more often than it was locked"
        self.locks[pages] -= 1
        self.num_locked -= int(np.count_nonzero(self.locks[pages] == 0))

    def free_pages(self) -> PageArray:
        """The free list, in no particular order (for integrity checks)."""
        return self._stack[: self.num_free].copy()

    def _move(self, pages: PageArray, old: int, new: int) -> None:
        count = len(pages)
        if count == 0:
            return
        found = self.state[pages]
        assert (found == old).all(), (
            f"pages {pages[found != old].tolist()} are not {_STATE_NAMES[old]} but "
            f"{[_STATE_NAMES[state] for state in found if state != old]}"
        )
        if count > 1:  # Each page leaves its index; a page named twice keeps only the later one.
            order = np.arange(count, dtype=np.int32)
            self._seen[pages] = order
            assert (self._seen[pages] == order).all(), "a page is named twice in one call"
        self.state[pages] = new
        self._counts[old] -= count
        self._counts[new] += count
