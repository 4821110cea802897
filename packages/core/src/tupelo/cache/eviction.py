"""What leaves the tree when pages run short.

Full pages go from the ends of unlocked leaves. Pages of a window group can also go alone, from any
node, and leave a hole (ABSENT): only those that no lease has locked. Among window pages, those that
no match ending at their node's end would need go first, so that one long prompt does not cost every
other prefix its last window.

Both orders are lazy heaps: a node is pushed when it may have become evictable, and its key is
looked at again when it is popped. Keys only grow with use, so a popped node whose key is still
right is the least of all; an eviction costs O(log nodes) amortised.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tupelo.cache.pages import ABSENT, CACHED, PageAllocator
from tupelo.cache.radix import Node, RadixTree
from tupelo.errors import ConfigError
from tupelo.specs import PageGroup

Key = tuple[int, int, int]

POLICIES: Final[dict[str, Callable[[Node], tuple[int, int]]]] = {
    "lru": lambda node: (0, node.last_access),
    "lfu": lambda node: (node.hits, node.last_access),
}


class LazyQueue:
    """Nodes by key, least first; each node at most once."""

    def __init__(self) -> None:
        self._heap: list[tuple[Key, int, Node]] = []
        self._keys: dict[Node, Key] = {}
        self._pushed = 0

    def __contains__(self, node: Node) -> bool:
        return node in self._keys

    def push(self, node: Node, key: Key) -> None:
        """Queue ``node``, or lower its key; whoever pops it finds out whether the key has risen."""
        known = self._keys.get(node)
        if known is not None and known <= key:
            return
        self._keys[node] = key
        self._pushed += 1
        heapq.heappush(self._heap, (key, self._pushed, node))
        if len(self._heap) > 2 * len(self._keys) + 64:
            self._heap = [entry for entry in self._heap if self._keys.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def pop(self) -> tuple[Node, Key]:
        """Take out the node of the least key."""
        while True:
            key, _, node = heapq.heappop(self._heap)
            if self._keys.get(node) == key:
                del self._keys[node]
                return node, key

    def discard(self, node: Node) -> None:
        """Forget ``node`` if it is queued."""
        self._keys.pop(node, None)


class Evictor:
    """Chooses and removes pages of ``tree``; returns them to ``pools``.

    Attributes:
        num_evicted: pages evicted so far, for each group.
    """

    def __init__(
        self,
        tree: RadixTree,
        groups: Sequence[PageGroup],
        pools: Sequence[PageAllocator],
        policy: str,
    ) -> None:
        if policy not in POLICIES:
            raise ConfigError(
                f"unknown eviction policy {policy!r}; allowed: {', '.join(sorted(POLICIES))}"
            )
        self.num_evicted = [0] * len(groups)
        self._policy = POLICIES[policy]
        self._tree = tree
        self._pools = pools
        # Pages before a node's end that a match ending there needs.
        self._window_pages = {
            index: -(-(group.window - 1) // tree.page_size)
            for index, group in enumerate(groups)
            if group.window is not None
        }
        self._has_full_group = len(self._window_pages) < len(groups)
        self._leaves = LazyQueue()
        self._windows = {index: LazyQueue() for index in self._window_pages}

    def offer_leaf(self, node: Node) -> None:
        """Say that ``node`` may have become an unlocked leaf."""
        if node.parent is None or node.children or node.locks:
            return
        if self._has_full_group:
            self._leaves.push(node, (0, *self._policy(node)))
        else:
            self._prune(node)

    def offer_window(self, group: int, node: Node) -> None:
        """Say that ``node`` may hold pages of window ``group`` that nobody has locked."""
        idle = self._idle(group, node)
        if len(idle):
            self._windows[group].push(node, self._window_key(group, node, idle))

    def evict_leaves(self, count: int) -> None:
        """Free ``count`` pages of each full group, with the window pages that lie beside them.

        The caller knows that unlocked nodes hold as many.
        """
        while count > 0:
            node, key = self._leaves.pop()
            if node.children or node.locks:
                continue  # It is offered again when that ends.
            current = (0, *self._policy(node))
            if current > key:
                self._leaves.push(node, current)
                continue
            taken = min(count, node.num_pages)
            count -= taken
            self._drop_tail(node, taken)

    def evict_window(self, group: int, count: int) -> None:
        """Free ``count`` pages of window ``group``; the caller knows that as many are unlocked."""
        while count > 0:
            node, key = self._windows[group].pop()
            idle = self._idle(group, node)
            if len(idle) == 0:
                continue
            current = self._window_key(group, node, idle)
            if current > key:
                self._windows[group].push(node, current)
                continue
            spare = idle[: self._num_spare(group, node, idle)]
            chosen = (spare if len(spare) else idle)[:count]
            count -= len(chosen)
            self._pools[group].free(node.pages[group, chosen], state=CACHED)
            self.num_evicted[group] += len(chosen)
            node.pages[group, chosen] = ABSENT
            self.offer_window(group, node)
            if not self._has_full_group:
                self._prune(node)

    def forget(self, nodes: Sequence[Node]) -> None:
        """Drop ``nodes``, which have left the tree, from the queues."""
        for node in nodes:
            self._leaves.discard(node)
            for queue in self._windows.values():
                queue.discard(node)

    def is_queued(self, node: Node, group: int | None = None) -> bool:
        """Whether ``node`` waits as a leaf, or for its pages of window ``group`` (for checks)."""
        return node in (self._leaves if group is None else self._windows[group])

    def _drop_tail(self, node: Node, count: int) -> None:
        """Remove the last pages of an unlocked leaf and free what they hold."""
        parent = node.parent
        assert parent is not None
        for index, pool in enumerate(self._pools):
            pages = node.pages[index, node.num_pages - count :]
            pages = pages[pages >= 0]
            pool.free(pages, state=CACHED)
            self.num_evicted[index] += len(pages)
        whole = count == node.num_pages
        self._tree.drop_tail(node, count)
        if not whole:
            self.offer_leaf(node)
            return
        self.forget([node])
        if parent.parent is None:
            self._tree.drop_root_if_empty(parent)
        else:
            self.offer_leaf(parent)

    def _prune(self, node: Node) -> None:
        """Without a full group, remove a leaf's last pages that no group holds any more."""
        if node.parent is None or node.children or node.locks:
            return
        held = np.flatnonzero((node.pages >= 0).any(axis=0))
        dead = node.num_pages - (int(held[-1]) + 1 if len(held) else 0)
        if dead:
            self._drop_tail(node, dead)

    def _idle(self, group: int, node: Node) -> npt.NDArray[np.intp]:
        """Ascending indices in ``node`` of the group's pages that are held and not locked."""
        pages = node.pages[group]
        return np.flatnonzero((pages >= 0) & (self._pools[group].locks[pages] == 0))

    def _num_spare(self, group: int, node: Node, idle: npt.NDArray[np.intp]) -> int:
        """How many of ``idle`` lie before the last window of ``node``."""
        return int(np.searchsorted(idle, node.num_pages - self._window_pages[group]))

    def _window_key(self, group: int, node: Node, idle: npt.NDArray[np.intp]) -> Key:
        return (0 if self._num_spare(group, node, idle) else 1, *self._policy(node))
