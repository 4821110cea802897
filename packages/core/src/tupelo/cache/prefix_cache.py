"""The door of the cache: what the scheduler calls.

Pages are the scheduler's to ask for and never its own to count: a page is free, owned by one
lease, or cached in the tree, and ``check`` proves it. Nothing here knows a device; a page's K/V are
written by steps that run in the order in which they were scheduled, which is why a page may be
published before it is computed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tupelo.cache import integrity
from tupelo.cache.core import CacheCore, first_visible_page
from tupelo.cache.frontier import Frontier
from tupelo.cache.lease import Lease
from tupelo.cache.order import weighted_order
from tupelo.cache.pages import CACHED, PageArray
from tupelo.cache.picture import Picture, draw
from tupelo.cache.radix import Namespace, key_ids, page_key
from tupelo.cache.withdraw import withdraw
from tupelo.errors import ConfigError
from tupelo.specs import PageGroup

Ids = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupStats:
    """Pages of one group: ``free + owned + cached == total``.

    Attributes:
        available: free or evictable.
        evicted: so far.
    """

    total: int
    free: int
    owned: int
    cached: int
    available: int
    evicted: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheStats:
    """What the cache holds now, and has done since it was made.

    Attributes:
        groups: pages, for each group.
        num_leases, num_nodes: open leases; nodes of the tree.
        num_lookup_tokens: tokens that leases were opened for, at most ``max_tokens`` each.
        num_hit_tokens: tokens that were found, at opening or later.
    """

    groups: tuple[GroupStats, ...]
    num_leases: int
    num_nodes: int
    num_lookup_tokens: int
    num_hit_tokens: int


class PrefixCache:
    """Page tables of live requests, and the tree of what they leave behind.

    ``ids`` are always the cache-key ids of a request from its first token on, of any integer type
    (int64 saves a copy). They may be longer than a call needs, and are never to change in place.

    Args:
        groups: the page groups; windows as in ``KVSpec``.
        page_size: tokens a page, for all groups.
        enabled: False keeps the bookkeeping, but matches and publishes nothing.
        eviction: ``"lru"`` or ``"lfu"``.

    Raises:
        ConfigError: enabled without a group, a page size or window below 1, or an unknown eviction
            policy.
    """

    def __init__(
        self,
        groups: Sequence[PageGroup],
        page_size: int,
        *,
        enabled: bool = True,
        eviction: str = "lru",
    ) -> None:
        if enabled and not groups:
            raise ConfigError("a prefix cache needs at least one page group; got none")
        if page_size < 1:
            raise ConfigError(f"page_size is {page_size}; it must be at least 1")
        for index, group in enumerate(groups):
            if group.window is not None and group.window < 1:
                raise ConfigError(
                    f"page group {index} has window {group.window}; allowed: 1 or more"
                )
        self.page_size = page_size
        self.enabled = enabled
        self._eviction = eviction
        self._core = CacheCore(groups, page_size, eviction)
        self._num_lookup_tokens = 0
        self._num_hit_tokens = 0

    # Looking, without holding anything

    def match_length(self, namespace: Namespace, ids: Ids, *, max_tokens: int | None = None) -> int:
        """Tokens of ``ids`` that a lease opened now would find: whole pages. Changes nothing."""
        core = self._core
        root = core.tree.roots.get(namespace)
        if root is None or not self.enabled:
            return 0
        path = core.tree.walk(root, key_ids(ids), self._limit(ids, max_tokens))
        return core.usable_pages(None, path) * self.page_size

    def begins(self, namespace: Namespace, ids: Ids) -> bool:
        """Whether the tree has the first page of ``ids``: a quick look, before ``match_length``."""
        root = self._core.tree.roots.get(namespace)
        if root is None or not self.enabled or len(ids) < self.page_size:
            return False
        return page_key(key_ids(ids[: self.page_size])) in root.children

    def owner_of_next_page(
        self, namespace: Namespace, ids: Ids, matched_tokens: int, *, waiter: Lease | None = None
    ) -> Frontier | None:
        """Who has claimed the page after the first ``matched_tokens`` of ``ids``, if any.

        ``matched_tokens`` is what ``match_length`` or a lease says, in whole pages. A ``waiter``
        that has a claim of its own is shown earlier ones only: no two wait for each other.
        """
        core = self._core
        root = core.tree.roots.get(namespace)
        if root is None or not self.enabled:
            return None
        keys, matched = key_ids(ids), matched_tokens // self.page_size
        path = [root]
        path += [
            node for node, count in core.tree.walk(root, keys, matched) if count == node.num_pages
        ]
        return core.frontier.find(path, keys, matched, waiter)

    def weighted_order(self, requests: Sequence[tuple[Namespace, Ids]]) -> list[int]:
        """Indices of ``requests`` depth first in the tree, the branch of most requests first."""
        return weighted_order(self._core.tree, requests)

    # The life of a lease

    def open(self, namespace: Namespace, ids: Ids, *, max_tokens: int) -> Lease:
        """Match at most ``max_tokens`` of ``ids`` and hold what is found.

        A caller that needs logits passes ``max_tokens < len(ids)``.
        """
        core = self._core
        core.clock += 1
        node = core.tree.root(Namespace(*namespace))
        lease = Lease(node.namespace, node, len(core.groups))
        core.tree.pin(node)
        core.leases[lease] = None
        self._num_lookup_tokens += min(len(ids), max_tokens)
        self._adopt(lease, ids, max_tokens)
        return lease

    def rematch(self, lease: Lease, ids: Ids, *, max_tokens: int) -> int:
        """Adopt what has been published since, right after the pages of ``lease``.

        Only where every page of the lease is published, which holds for one that has computed
        nothing, or ended its last chunk on a page boundary and published it. Returns tokens gained.
        """
        self._assert_live(lease)
        if lease.num_pages != lease.node.end:
            return 0
        self._core.clock += 1
        return self._adopt(lease, ids, max_tokens)

    def extend(self, lease: Lease, num_tokens: int) -> bool:
        """See that ``lease`` has pages for tokens ``[0, num_tokens)`` in every group.

        Evicts where needed. False, and nothing changed, when there is no room.
        """
        self._assert_live(lease)
        count = -(-num_tokens // self.page_size) - lease.num_pages
        if count <= 0:
            return True
        core = self._core
        if not core.make_room(count):
            return False
        pages = lease.append(count)
        for index, pool in enumerate(core.pools):
            pages[index] = pool.alloc(count)
        return True

    def extend_many(self, leases: Sequence[Lease], num_tokens: Sequence[int]) -> bool:
        """``extend`` for all of ``leases``, or, returning False, for none of them."""
        size = self.page_size
        grown: list[tuple[Lease, int]] = []
        total = 0
        for lease, tokens in zip(leases, num_tokens, strict=True):
            count = -(-tokens // size) - lease.num_pages
            if count > 0:
                self._assert_live(lease)
                grown.append((lease, count))
                total += count
        core = self._core
        if not core.make_room(total):
            return False
        fresh: PageArray = np.array([pool.alloc(total) for pool in core.pools], np.int32)
        fresh = fresh.reshape(len(core.pools), total)
        start = 0
        for lease, count in grown:
            lease.append(count)[:] = fresh[:, start : start + count]
            start += count
        return True

    def publish(self, lease: Lease, ids: Ids, num_tokens: int) -> None:
        """Let the full pages of ``ids[:num_tokens]`` enter the tree.

        To be called once their computation is scheduled (or, for generated tokens, once these are
        known). Where the tree has an equal page, the lease keeps its own copy, which its device
        page table refers to, until it closes.
        """
        self._assert_live(lease)
        target = num_tokens // self.page_size
        if not self.enabled or target <= lease.node.end:
            return
        assert target <= lease.num_pages, "a published page has no place yet"
        assert len(ids) >= num_tokens, "published tokens are unknown"
        core, keys = self._core, key_ids(ids)
        core.clock += 1
        node = lease.node
        for found, count in core.tree.walk(node, keys, target):
            node = found if count == found.num_pages else core.split(found, count)
            core.fill_holes(lease, node)
            core.touch(node)
        if node.end < target:
            node = core.give(lease, node, keys, target)
            core.touch(node)
        core.move(lease, node)

    def withdraw(self, lease: Lease, from_token: int) -> list[Lease]:
        """Take back what ``lease`` published, but will not compute, from ``from_token`` on.

        Its own pages return to it; pages adopted from there on are dropped from its table, and
        ``num_pages`` says what is left. Call it before ``close``, for each request of a step that
        will not run, with a ``from_token`` not below what ``release_window`` was told.

        Returns the other leases that read such pages. They are ``lost``: pages and steps from their
        new ``num_pages`` on are void, and they can only be closed (and their requests begun again).
        """
        self._assert_live(lease)
        core = self._core
        core.clock += 1
        return withdraw(core, lease, from_token // self.page_size)

    def release_window(self, lease: Lease, num_tokens: int) -> list[tuple[int, int]]:
        """Give back window pages that no query at token ``num_tokens`` or later can see.

        Pass the start of the oldest step that may still be withdrawn, else of the next one.
        Returns, for each group, which positions ``[start, stop)`` became ABSENT (equal for none).
        """
        self._assert_live(lease)
        core = self._core
        released = [(start, start) for start in lease.window_start]
        for index, window in core.windows:
            start = lease.window_start[index]
            first = first_visible_page(num_tokens, window, self.page_size)
            stop = min(first, lease.num_pages)
            if stop > start:
                core.let_go(lease, index, start, stop)
                lease.window_start[index] = stop
                released[index] = (start, stop)
        return released

    def close(self, lease: Lease) -> None:
        """End ``lease``: what it owns comes free, what it published stays, unlocked."""
        assert not lease.closed, "a lease is closed twice"
        core = self._core
        core.clock += 1
        core.frontier.unclaim(lease)
        for index in range(len(core.pools)):
            core.let_go(lease, index, lease.window_start[index], lease.num_pages)
        core.touch(lease.node)
        del core.leases[lease]
        lease.closed = True
        core.tree.unpin(lease.node)
        core.evictor.offer_leaf(lease.node)

    # Claims

    def claim(self, lease: Lease, ids: Ids, num_tokens: int) -> None:
        """Say that ``lease`` will compute the full pages of ``ids[:num_tokens]``.

        The claim follows the lease's frontier and ends with ``unclaim`` or ``close``.
        """
        self._assert_live(lease)
        assert len(ids) >= num_tokens, "claimed tokens are unknown"
        if self.enabled:
            self._core.frontier.claim(lease, key_ids(ids), num_tokens // self.page_size)

    def unclaim(self, lease: Lease) -> None:
        """Take back the claim of ``lease``, if it has one; the next waiter finds no owner."""
        self._core.frontier.unclaim(lease)

    # The whole

    def num_available(self, group: int = 0) -> int:
        """Pages of ``group`` that ``extend`` could take now: free or evictable."""
        return self._core.num_available(group)

    def cached_pages(self, group: int = 0) -> PageArray:
        """Ascending ids of the group's pages that are in the tree (for diagnosis)."""
        return np.flatnonzero(self._core.pools[group].state == CACHED).astype(np.int32)

    def flush(self) -> bool:
        """Empty the tree; refused (False) while leases are open."""
        core = self._core
        if core.leases:
            return False
        evicted = core.evictor.num_evicted
        self._core = CacheCore(core.groups, self.page_size, self._eviction)
        self._core.evictor.num_evicted = evicted
        self._core.clock = core.clock
        return True

    def stats(self) -> CacheStats:
        """Counts for metrics and logs; O(groups)."""
        core = self._core
        groups = tuple(
            GroupStats(
                total=pool.num_pages,
                free=pool.num_free,
                owned=pool.num_owned,
                cached=pool.num_cached,
                available=core.num_available(index),
                evicted=core.evictor.num_evicted[index],
            )
            for index, pool in enumerate(core.pools)
        )
        return CacheStats(
            groups=groups,
            num_leases=len(core.leases),
            num_nodes=core.tree.num_nodes,
            num_lookup_tokens=self._num_lookup_tokens,
            num_hit_tokens=self._num_hit_tokens,
        )

    def picture(self, *, limit: int, salt: str | None = None) -> Picture:
        """The tree's sizes, use and ages, of ``limit`` nodes at most; O(limit).

        Args:
            salt: only what namespaces with this salt hold; None: everything.
        """
        return draw(self._core.tree, self._core.clock, limit, salt)

    def check(self, leases: Iterable[Lease]) -> None:
        """Prove the books against ``leases``, which the caller believes to be all open ones.

        Raises:
            AssertionError: says what differs.
        """
        integrity.check(self._core, list(leases))

    def _adopt(self, lease: Lease, ids: Ids, max_tokens: int) -> int:
        if not self.enabled:
            return 0
        pages = self._core.adopt(lease, key_ids(ids), self._limit(ids, max_tokens))
        gained = pages * self.page_size
        lease.num_cached_tokens += gained
        self._num_hit_tokens += gained
        return gained

    def _limit(self, ids: Ids, max_tokens: int | None) -> int:
        tokens = len(ids) if max_tokens is None else min(len(ids), max_tokens)
        return tokens // self.page_size

    def _assert_live(self, lease: Lease) -> None:
        assert not lease.closed, "a closed lease is used"
        assert not lease.lost, "a lost lease can only be closed"
