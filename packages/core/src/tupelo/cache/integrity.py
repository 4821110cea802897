"""Proof of the cache's books: everything counted is counted again from leases and tree."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from tupelo.cache.core import CacheCore
from tupelo.cache.lease import Lease
from tupelo.cache.pages import CACHED, FREE, OWNED, PageArray
from tupelo.cache.radix import Node, page_key


def check(core: CacheCore, leases: list[Lease]) -> None:
    """Assert every invariant of ``core``; see ``PrefixCache.check``. Costs O(pages + nodes)."""
    strangers = set(leases) ^ set(core.leases)
    assert not strangers, f"{len(strangers)} leases are open here or there, not in both"
    nodes = _check_structure(core)
    _check_locks(core, nodes)
    for lease in leases:
        _check_lease(core, lease, nodes)
    for group in range(len(core.pools)):
        _check_group(core, group, leases, nodes)
        _check_queues(core, group, nodes)


def _check_structure(core: CacheCore) -> set[Node]:
    """Every node is where its parent says, holds whole pages, and differs from its siblings."""
    nodes: set[Node] = set()
    stack = list(core.tree.roots.values())
    for namespace, root in core.tree.roots.items():
        assert root.namespace == namespace
        assert root.parent is None
        assert root.end == 0
        assert root.children or root.pins, f"the root of {namespace} is of no use"
    while stack:
        node = stack.pop()
        assert node not in nodes, "a node is reached twice"
        nodes.add(node)
        for key, child in node.children.items():
            assert child.parent is node
            assert child.start == node.end
            assert child.num_pages > 0, "an empty node"
            assert len(child.tokens) == child.num_pages * core.page_size
            assert key == page_key(child.tokens[: core.page_size]), "a child under a wrong key"
            assert child.namespace == node.namespace
            assert (child.pages[core.full] >= 0).all(), "a full page is absent"
            stack.append(child)
    found = len(nodes) - len(core.tree.roots)
    assert core.tree.num_nodes == found, f"{core.tree.num_nodes} nodes counted, {found} found"
    return nodes


def _check_locks(core: CacheCore, nodes: set[Node]) -> None:
    pins = Counter(lease.node for lease in core.leases)
    locked = 0
    for node in nodes:
        assert node.pins == pins[node], f"{node.pins} pins counted, {pins[node]} leases end there"
        locks = node.pins + sum(1 for child in node.children.values() if child.locks)
        assert node.locks == locks, f"{node.locks} locks counted, {locks} found"
        locked += node.num_pages if locks else 0
    assert core.tree.locked_pages == locked, f"{core.tree.locked_pages} locked, {locked} found"


def _check_lease(core: CacheCore, lease: Lease, nodes: set[Node]) -> None:
    """What a lease says is in the tree lies there, at the same position of its own path."""
    assert lease.node in nodes, "a lease ends at a node that has left the tree"
    assert lease.node.namespace == lease.namespace
    assert lease.node.end <= lease.num_pages, "more is published than there is"
    for index, pool in enumerate(core.pools):
        row, given = lease.pages(index), lease.given[index, : lease.num_pages]
        if core.groups[index].window is None:
            assert (row >= 0).all(), f"group {index}: a lease lacks a full page"
        cached = (row >= 0) & (pool.state[row] == CACHED)
        assert not (given & ~cached).any(), f"group {index}: a given page is not in the tree"
        assert not cached[lease.node.end :].any(), f"group {index}: a cached page past the frontier"
        node: Node | None = lease.node
        while node is not None:
            part = slice(node.start, node.end)
            same = row[part] == node.pages[index]
            assert same[cached[part]].all(), f"group {index}: a lease's page is not the tree's"
            node = node.parent


def _check_group(core: CacheCore, group: int, leases: list[Lease], nodes: Iterable[Node]) -> None:
    pool = core.pools[group]
    cached = _held(node.pages[group] for node in nodes)
    rows = [lease.pages(group) for lease in leases]
    owned = _held(row[(row >= 0) & (pool.state[row] != CACHED)] for row in rows)
    free = pool.free_pages()
    uses = np.bincount(np.concatenate((free, owned, cached)), minlength=pool.num_pages)
    wrong = np.flatnonzero(uses != 1).tolist()
    assert not wrong, f"group {group}: pages with more or less than one place: {wrong}"
    for name, state, pages, count in (
        ("free", FREE, free, pool.num_free),
        ("owned", OWNED, owned, pool.num_owned),
        ("cached", CACHED, cached, pool.num_cached),
    ):
        assert len(pages) == count, f"group {group}: {count} {name} counted, {len(pages)} found"
        assert (pool.state[pages] == state).all(), f"group {group}: a {name} page says otherwise"
    locks = np.zeros(pool.num_pages, dtype=np.int64)
    if core.groups[group].window is not None:
        for row in rows:
            locks[row[(row >= 0) & (pool.state[row] == CACHED)]] += 1
    wrong = np.flatnonzero(locks != pool.locks).tolist()
    assert not wrong, f"group {group}: pages locked otherwise than leases say: {wrong}"
    assert pool.num_locked == np.count_nonzero(locks), f"group {group}: num_locked is wrong"


def _check_queues(core: CacheCore, group: int, nodes: Iterable[Node]) -> None:
    """Whatever can be evicted is in the queue to be."""
    pool = core.pools[group]
    for node in nodes:
        if node.parent is None:
            continue
        if core.groups[group].window is None:
            if not node.children and not node.locks:
                assert core.evictor.is_queued(node), "an unlocked leaf is not queued"
        else:
            row = node.pages[group]
            if ((row >= 0) & (pool.locks[row] == 0)).any():
                assert core.evictor.is_queued(node, group), "idle window pages are not queued"


def _held(rows: Iterable[PageArray]) -> PageArray:
    parts = [row[row >= 0] for row in rows]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
