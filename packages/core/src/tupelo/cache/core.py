"""State of a prefix cache, and the moves that everything in this package is made of.

Owns the tree, one allocator a page group, the open leases and their claims. Each move leaves all of
them consistent.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tupelo.cache.eviction import Evictor
from tupelo.cache.frontier import FrontierIndex
from tupelo.cache.lease import Lease
from tupelo.cache.pages import ABSENT, CACHED, OWNED, PageAllocator
from tupelo.cache.radix import Node, RadixTree, TokenArray
from tupelo.specs import PageGroup

_MAX_GROWN_TOKENS = 16_384  # Growing copies the node; this bounds the copy.


def first_visible_page(num_tokens: int, window: int, page_size: int) -> int:
    """First position that a query at token ``num_tokens``, or a later one, can see."""
    return max(0, num_tokens - window + 1) // page_size


class CacheCore:
    """See the module.

    Attributes:
        page_size: tokens a page.
        groups, pools: the page groups and their allocators.
        full, windows: indices of full groups; (index, window) of window groups.
        tree, evictor, frontier: the parts.
        leases: all open leases, oldest first (a dict for its order).
        clock: logical time of the last access.
    """

    def __init__(self, groups: Sequence[PageGroup], page_size: int, eviction: str) -> None:
        self.page_size = page_size
        self.groups = tuple(groups)
        self.pools = [PageAllocator(group.num_pages) for group in self.groups]
        self.full = [index for index, group in enumerate(self.groups) if group.window is None]
        self.windows = [
            (index, group.window)
            for index, group in enumerate(self.groups)
            if group.window is not None
        ]
        self.tree = RadixTree(page_size, len(self.groups))
        self.evictor = Evictor(self.tree, self.groups, self.pools, eviction)
        self.frontier = FrontierIndex(page_size)
        self.leases: dict[Lease, None] = {}
        self.clock = 0

    # Room

    def num_available(self, group: int) -> int:
        """Pages of ``group`` that are free or can be evicted now."""
        pool = self.pools[group]
        held = pool.num_locked if self.groups[group].window is not None else self.tree.locked_pages
        return pool.num_free + pool.num_cached - held

    def make_room(self, count: int) -> bool:
        """See that every group has ``count`` free pages; False, evicting nothing, if one cannot."""
        pools = self.pools
        if all(pool.num_free >= count for pool in pools):
            return True
        if any(self.num_available(index) < count for index in range(len(pools))):
            return False
        # Full groups first: the window pages beside the evicted ones come free with them.
        for index in self.full:
            self.evictor.evict_leaves(count - pools[index].num_free)
        for index, _ in self.windows:
            self.evictor.evict_window(index, count - pools[index].num_free)
        return True

    # Nodes

    def touch(self, node: Node) -> None:
        """Note an access of ``node`` at the present time."""
        node.last_access = self.clock

    def split(self, node: Node, count: int) -> Node:
        """Cut ``node`` after ``count`` pages; returns the upper part."""
        upper = self.tree.split(node, count)
        for index, _ in self.windows:
            self.evictor.offer_window(index, upper)
        return upper

    def move(self, lease: Lease, node: Node) -> None:
        """Let the published prefix of ``lease`` end at ``node``."""
        old = lease.node
        if node is not old:
            self.tree.pin(node)
            lease.node = node
            self.tree.unpin(old)
            self.evictor.offer_leaf(old)
        self.frontier.update(lease)

    def retreat(self, lease: Lease, position: int) -> None:
        """Move ``lease`` up until its published prefix is ``position`` pages at most."""
        node = lease.node
        if node.end <= position:
            return
        while node.parent is not None and node.start >= position:
            node = node.parent
        if node.end > position:
            node = self.split(node, position - node.start)
        self.move(lease, node)

    def usable_pages(self, lease: Lease | None, path: list[tuple[Node, int]]) -> int:
        """Position where the longest match along ``path`` ends that all window groups can serve.

        ``path`` is a walk from where the published prefix of ``lease`` ends, or from the root. What
        the lease holds itself counts as present. Returns the start where nothing more is usable.
        """
        start = lease.node.end if lease is not None else 0
        end = start + sum(count for _, count in path)
        if end == start or not self.windows:
            return end
        usable = np.ones(end - start, dtype=np.bool_)
        ends = np.arange(start + 1, end + 1)
        for index, window in self.windows:
            held = [node.pages[index, :count] for node, count in path]
            if lease is not None:
                held.insert(0, lease.table[index, :start])
            pages = np.concatenate(held)
            last_hole = np.maximum.accumulate(np.where(pages < 0, np.arange(end), -1))[start:]
            first = np.maximum(0, ends * self.page_size - window + 1) // self.page_size
            usable &= last_hole < first
        served = np.flatnonzero(usable)
        return start + int(served[-1]) + 1 if len(served) else start

    # Pages of leases

    def adopt(self, lease: Lease, ids: TokenArray, limit: int) -> int:
        """Extend ``lease``, all of whose pages are published, by what the tree holds of ``ids``.

        At most ``limit`` pages in all. Returns the positions gained.
        """
        path = self.tree.walk(lease.node, ids, limit)
        start, end = lease.node.end, self.usable_pages(lease, path)
        if end == start:
            return 0
        pages = lease.append(end - start)
        for found, _ in path:
            if found.start >= end:
                break
            node = found if found.end <= end else self.split(found, end - found.start)
            pages[:, node.start - start : node.end - start] = node.pages
            node.hits += 1
            self.touch(node)
        for index, window in self.windows:
            first = max(start, first_visible_page(end * self.page_size, window, self.page_size))
            pages[index, : first - start] = ABSENT
            if start == 0:
                lease.window_start[index] = first
            self.pools[index].lock(pages[index, first - start :])
        self.move(lease, node)
        return end - start

    def give(self, lease: Lease, node: Node, ids: TokenArray, target: int) -> Node:
        """Put the pages of ``lease`` from ``node.end`` to ``target`` below ``node``.

        Returns the node that holds the last of them.
        """
        start = node.end
        pages = lease.table[:, start:target]
        for index in range(len(self.pools)):
            self._give_group(lease, index, np.flatnonzero(pages[index] >= 0) + start)
        tokens = ids[start * self.page_size : target * self.page_size]
        if self._may_grow(lease, node, len(tokens)):
            self.tree.grow(node, tokens, pages)
            for index, _ in self.windows:
                self.evictor.offer_window(index, node)
            return node
        return self.tree.add_leaf(node, tokens, pages)

    def fill_holes(self, lease: Lease, node: Node) -> None:
        """Give ``node``, which ``lease`` has computed too, the window pages that it lacks."""
        for index, _ in self.windows:
            mine = lease.table[index, node.start : node.end]
            holes = np.flatnonzero((node.pages[index] < 0) & (mine >= 0))
            if len(holes):
                self._give_group(lease, index, holes + node.start)
                node.pages[index, holes] = mine[holes]

    def let_go(self, lease: Lease, group: int, start: int, stop: int) -> None:
        """End the hold of ``lease`` on the group's pages at positions ``start`` to ``stop``.

        Its own pages come free, those of the tree are unlocked.
        """
        pool = self.pools[group]
        part = lease.table[group, start:stop]
        pages = part[part >= 0]
        state = pool.state[pages]
        pool.free(pages[state == OWNED], state=OWNED)
        part[:] = ABSENT
        lease.given[group, start:stop] = False
        if self.groups[group].window is None:
            return
        pool.unlock(pages[state == CACHED])
        node: Node | None = lease.node
        while node is not None and node.end > start:
            if node.start < stop:
                self.evictor.offer_window(group, node)
            node = node.parent

    def truncate(self, lease: Lease, position: int) -> None:
        """Drop the pages of ``lease`` from ``position`` on."""
        if lease.num_pages <= position:
            return
        for index in range(len(self.pools)):
            self.let_go(lease, index, position, lease.num_pages)
        lease.num_pages = position
        lease.num_cached_tokens = min(lease.num_cached_tokens, position * self.page_size)
        self.retreat(lease, position)

    def _give_group(self, lease: Lease, group: int, positions: npt.NDArray[np.intp]) -> None:
        pages = lease.table[group, positions]
        self.pools[group].cache(pages)
        lease.given[group, positions] = True
        if self.groups[group].window is not None:
            self.pools[group].lock(pages)

    def _may_grow(self, lease: Lease, node: Node, num_tokens: int) -> bool:
        """Whether nobody but ``lease`` ends at the leaf ``node``, so that its end may move."""
        return (
            node.parent is not None
            and not node.children
            and node.pins == (node is lease.node)
            and len(node.tokens) + num_tokens <= _MAX_GROWN_TOKENS
        )
