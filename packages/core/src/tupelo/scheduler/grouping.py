"""Which decode rows share leading pages: the order of a step's rows, and its ``PrefixGroups``.

Rows share a prefix where their page tables begin with the same pages, whatever made it so: the
prefix tree, samples of one prompt, or both. Rows are looked at when the set of running requests
changes; between such changes the same arrays are handed out again.

::

    sorted tables    a b c d | a b c e | a b f | g        pages of four rows
    common           3         2         0                with the row after it
    groups           {0, 1} by 3 pages, or {0, 1, 2} by 2: whichever spares more reads
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tupelo.batch import IntArray, PrefixGroups
from tupelo.scheduler.slots import SlotTable
from tupelo.specs import PageGroup

GROUP_SHARE = 32
"""A group must share at least the step's threshold over this: small ones only add work."""

MAX_NESTING = 8
"""Groups within groups that are weighed against each other."""

Group = tuple[int, int, int]
"""First row, row after the last, pages shared."""


class PrefixGrouper:
    """Arranges decode rows over one slot table.

    Args:
        groups: page groups; tables of the first one without a window are compared.
        worth_tokens: K/V tokens that a step must be spared reading, for its groups to be named.
            0 looks at nothing, nor is there anything to see without a group of that kind.
    """

    def __init__(self, table: SlotTable, groups: Sequence[PageGroup], worth_tokens: int) -> None:
        full = [index for index, group in enumerate(groups) if group.window is None]
        self._table = table
        self._pages = table.tables[full[0]] if full else np.empty((0, 0), np.int32)
        self._worth_tokens = worth_tokens
        self._least_pages = max(1, worth_tokens // GROUP_SHARE // table.page_size)
        short = self._pages.shape[1] < self._least_pages
        self._looks = bool(worth_tokens and full) and not short
        self._seen: tuple[IntArray, int] | None = None
        self._found: tuple[IntArray, PrefixGroups | None]

    def arrange(self, slots: IntArray) -> tuple[IntArray, PrefixGroups | None]:
        """Order the slots of a step's decode rows so that groups come first, each in a piece.

        Args:
            slots: (num_rows,) ascending.

        Returns:
            The slots in order, and the groups; ``slots`` itself and None where nothing is worth it.
        """
        if not self._looks:
            return slots, None
        taken = self._table.num_taken
        seen = self._seen
        if seen is None or seen[1] != taken or not np.array_equal(seen[0], slots):
            self._seen = (slots, taken)
            self._found = self._look(slots)
        return self._found

    def _look(self, slots: IntArray) -> tuple[IntArray, PrefixGroups | None]:
        least, size = self._least_pages, self._table.page_size
        counts = self._table.num_table_pages[slots]
        long = slots[counts >= least]
        keys = self._pages[long, least - 1]
        order = np.argsort(keys, kind="stable")
        same = np.diff(keys[order]) == 0
        if not same.any():
            return slots, None
        paired = np.append(same, False)
        paired[1:] |= same
        rows, common = self._sorted(long[order[paired]])
        spared, groups = _choose(common, least)
        if spared * size < self._worth_tokens:
            return slots, None
        chosen = np.concatenate([rows[first:end] for first, end, _ in groups])
        rest = slots[~np.isin(slots, chosen)]
        starts = np.cumsum([0] + [end - first for first, end, _ in groups])
        shared = np.array([pages for _, _, pages in groups]) * size
        made = PrefixGroups(starts.astype(np.int32), shared.astype(np.int32))
        return np.concatenate((chosen, rest)).astype(np.int32), made

    def _sorted(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """``rows`` in the order of their tables, and pages that each has in common with the
        next."""
        counts = self._table.num_table_pages[rows]
        width = int(counts.max())
        tables = np.ascontiguousarray(self._pages[rows, :width], dtype=">i4")
        # Bytes of big-endian numbers compare as the numbers do.
        order = np.argsort(tables.view(f"V{4 * width}").ravel(), kind="stable")
        tables, counts = tables[order], counts[order]
        differs = tables[1:] != tables[:-1]
        first = np.where(differs.any(axis=1), differs.argmax(axis=1), width)
        common = np.minimum(first, np.minimum(counts[1:], counts[:-1]))
        return rows[order], common.astype(np.int32)


def _choose(common: npt.NDArray[np.integer], least: int) -> tuple[int, list[Group]]:
    """Disjoint groups of adjacent rows that spare the most page reads.

    A group of n rows that share p pages spares ``(n - 1) * p``. Rows form a group as a whole, or
    are parted where they have least in common, whichever spares more.

    Args:
        common: (num_rows - 1,) pages that a row shares with the next. least: pages of a group.
    """

    def best(first: int, end: int, depth: int) -> tuple[int, list[Group]]:
        inside = common[first : end - 1]
        pages = int(inside.min())
        whole = (end - first - 1) * pages if pages >= least else 0
        found = [(first, end, pages)] if whole else []
        if depth == MAX_NESTING or int(inside.max()) == pages:
            return whole, found
        cuts = [first, *(np.flatnonzero(inside == pages) + first + 1).tolist(), end]
        parts = [best(a, b, depth + 1) for a, b in pairwise(cuts) if b - a > 1]
        apart = sum(spared for spared, _ in parts)
        if apart <= whole:
            return whole, found
        return apart, [group for _, groups in parts for group in groups]

    return best(0, len(common) + 1, 0)
