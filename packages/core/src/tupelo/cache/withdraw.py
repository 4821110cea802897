"""Taking back pages that were published when their computation was scheduled, but never computed.

Whatever was built on such a page must leave the tree too. Three kinds of leases are concerned:

- the giver gets its pages back as its own;
- a lease that only published below them gets its pages back likewise, and can publish them again;
- a lease that *reads* a page which leaves the tree is lost: what it gave from there on is not to be
  trusted either, and so on until nothing changes.
"""

import numpy as np
import numpy.typing as npt

from tupelo.cache.core import CacheCore
from tupelo.cache.lease import Lease
from tupelo.cache.pages import ABSENT, CACHED
from tupelo.cache.radix import Node


def withdraw(core: CacheCore, lease: Lease, first: int) -> list[Lease]:
    """Take out of the tree what ``lease`` gave from position ``first`` on; returns lost leases."""
    gone = [np.zeros(pool.num_pages, dtype=np.bool_) for pool in core.pools]
    peers = [peer for peer in core.leases if peer.namespace == lease.namespace]
    cut: dict[Lease, int] = {}  # From which position on a lease's pages are not to be used.
    own = _first_adopted(core, lease, first, None)
    if own is not None:
        cut[lease] = own
    todo = [(lease, first)]
    while todo:
        giver, start = todo.pop()
        _take_out(core, giver, start, gone, peers)
        for peer in peers:
            bad = _first_adopted(core, peer, 0, gone)
            if bad is not None and bad < cut.get(peer, peer.num_pages):
                cut[peer] = bad
                todo.append((peer, bad))
    _hand_back(core, peers, gone)
    for peer, position in cut.items():
        core.truncate(peer, position)
    core.retreat(lease, first)  # Copies of its own further on are not computed either.
    lost = [peer for peer in cut if peer is not lease]
    for peer in lost:
        peer.lost = True
        core.frontier.unclaim(peer)
    return lost


def _take_out(
    core: CacheCore,
    giver: Lease,
    start: int,
    gone: list[npt.NDArray[np.bool_]],
    peers: list[Lease],
) -> None:
    """Remove what ``giver`` gave from ``start`` on from the tree, marking the pages in ``gone``."""
    for index in core.full:
        given = np.flatnonzero(giver.given[index, start : giver.node.end])
        if len(given):
            position = start + int(given[0])
            _cut_below(core, _node_at(giver.node, position), position, gone, peers)
    for index, _ in core.windows:
        given = np.flatnonzero(giver.given[index, start : giver.node.end]) + start
        for position in given.tolist():
            node = _node_at(giver.node, position)
            page = giver.table[index, position]
            assert node.pages[index, position - node.start] == page
            node.pages[index, position - node.start] = ABSENT
            gone[index][page] = True


def _cut_below(
    core: CacheCore,
    node: Node,
    position: int,
    gone: list[npt.NDArray[np.bool_]],
    peers: list[Lease],
) -> None:
    """Remove everything from ``position`` in ``node`` on; leases in there move up to the cut."""
    parent = node.parent if position == node.start else core.split(node, position - node.start)
    assert parent is not None
    inside = {node}
    stack = [node]
    while stack:
        below = list(stack.pop().children.values())
        inside.update(below)
        stack.extend(below)
    for peer in peers:
        if peer.node in inside:
            core.move(peer, parent)
    core.evictor.forget(core.tree.detach(node))
    for removed in inside:
        for index, pages in enumerate(removed.pages):
            gone[index][pages[pages >= 0]] = True


def _node_at(node: Node, position: int) -> Node:
    """The node on the path to ``node`` that holds ``position``."""
    while node.start > position:
        assert node.parent is not None
        node = node.parent
    return node


def _first_adopted(
    core: CacheCore, lease: Lease, start: int, gone: list[npt.NDArray[np.bool_]] | None
) -> int | None:
    """First position from ``start`` on where ``lease`` reads another's page (that is ``gone``)."""
    found: list[int] = []
    for index, pool in enumerate(core.pools):
        pages = lease.table[index, start : lease.num_pages]
        reads = (pages >= 0) & ~lease.given[index, start : lease.num_pages]
        reads &= pool.state[pages] == CACHED if gone is None else gone[index][pages]
        if reads.any():
            found.append(start + int(reads.argmax()))
    return min(found, default=None)


def _hand_back(core: CacheCore, peers: list[Lease], gone: list[npt.NDArray[np.bool_]]) -> None:
    """Return the pages that have left the tree to those who gave them, or else to the free list.

    Those who only read them have them no longer.
    """
    for index, pool in enumerate(core.pools):
        left = gone[index]
        held = []
        for peer in peers:
            row = peer.pages(index)
            positions = np.flatnonzero((row >= 0) & left[row])
            held.append(positions)
            if core.groups[index].window is not None:
                pool.unlock(row[positions])
        for peer, positions in zip(peers, held, strict=True):
            row, given = peer.pages(index), peer.given[index]
            mine = positions[given[positions]]
            pool.reclaim(row[mine])
            left[row[mine]] = False
            row[positions[~given[positions]]] = ABSENT
            given[positions] = False
        pool.free(np.flatnonzero(left).astype(np.int32), state=CACHED)
