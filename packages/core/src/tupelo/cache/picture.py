"""The prefix tree for an onlooker: sizes, use and ages of its nodes, never their tokens."""

from collections import deque
from itertools import islice
from typing import NamedTuple

from tupelo.cache.radix import Node, RadixTree

MAX_ROOTS = 4096
"""Namespaces that one drawing looks at."""


class PictureNode(NamedTuple):
    """One node.

    Attributes:
        serial: its own, for as long as it lives. parent: its parent's; 0 below a root.
        start, pages: position of its first page, and how many it has.
        pins: requests whose cached prefix ends with it. locks: 0 where it can be evicted.
        hits: times that a request matched it.
        age: accesses of the tree since the last one that touched it.
        hidden: its children that the picture leaves out.
    """

    serial: int
    parent: int
    start: int
    pages: int
    pins: int
    locks: int
    hits: int
    age: int
    hidden: int


class Picture(NamedTuple):
    """A part of the tree, parents before their children, newer siblings before older ones.

    Attributes:
        num_nodes: of the whole tree. hidden: nodes right below a root that are left out.
    """

    nodes: list[PictureNode]
    num_nodes: int
    hidden: int


def draw(tree: RadixTree, clock: int, limit: int, salt: str | None = None) -> Picture:
    """Level by level from the roots, ``limit`` nodes at most, however large the tree is.

    Args:
        clock: the tree's present time. salt: only of namespaces that have it; None: of all.
    """
    spaces = islice(tree.roots.items(), MAX_ROOTS)
    roots = [root for space, root in spaces if salt in (None, space.salt)]
    waiting: deque[Node] = deque()
    hidden = sum(_queue(root, waiting, limit) for root in roots)
    nodes: list[PictureNode] = []
    while waiting:
        node = waiting.popleft()
        left_out = _queue(node, waiting, limit - len(nodes) - 1)
        parent = node.parent
        assert parent is not None
        nodes.append(
            PictureNode(
                serial=node.serial,
                parent=parent.serial if parent.parent is not None else 0,
                start=node.start,
                pages=node.num_pages,
                pins=node.pins,
                locks=node.locks,
                hits=node.hits,
                age=clock - node.last_access,
                hidden=left_out,
            )
        )
    return Picture(nodes, tree.num_nodes, hidden)


def _queue(node: Node, waiting: deque[Node], limit: int) -> int:
    """Let the newest children of ``node`` wait, ``limit`` in all; how many have no room."""
    room = max(0, limit - len(waiting))
    waiting.extend(islice(reversed(node.children.values()), room))
    return max(0, len(node.children) - room)
