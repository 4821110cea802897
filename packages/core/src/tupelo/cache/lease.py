"""A live request's hold on pages: one page table for every group. The cache alone writes it."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tupelo.cache.pages import ABSENT, PageArray
from tupelo.cache.radix import Namespace, Node

if TYPE_CHECKING:
    from tupelo.cache.frontier import Claim


class Lease:
    """Pages of one request. Read only for all but the cache.

    ::

        position    0 ………… matched ………… published ………… num_pages
        page is in  the tree  the tree, or a copy    this lease alone
                              of its own where the
                              tree had one already

    Attributes:
        namespace: whose pages it may share.
        node: its published prefix ends at this node's end; pinned.
        num_pages: positions that have pages; the same for every group.
        num_cached_tokens: tokens whose K/V was found in the tree instead of being computed.
        window_start: for each group, the first position not yet released (0 for full groups).
        lost: a withdrawal took pages from under it; it can only be closed.
        closed: the lease is over.
        table: ``(num_groups, capacity)``, int32, page ids, ABSENT where released or never held.
        given: like ``table``, bool: the page is in the tree and this lease put it there.
        claim: pages it has said it will compute.
    """

    __slots__ = (
        "claim",
        "closed",
        "given",
        "lost",
        "namespace",
        "node",
        "num_cached_tokens",
        "num_pages",
        "table",
        "window_start",
    )

    def __init__(self, namespace: Namespace, node: Node, num_groups: int) -> None:
        self.namespace = namespace
        self.node = node
        self.num_pages = 0
        self.num_cached_tokens = 0
        self.window_start = [0] * num_groups
        self.lost = False
        self.closed = False
        self.table: PageArray = np.full((num_groups, 8), ABSENT, dtype=np.int32)
        self.given: npt.NDArray[np.bool_] = np.zeros((num_groups, 8), dtype=np.bool_)
        self.claim: Claim | None = None

    def pages(self, group: int = 0) -> PageArray:
        """``(num_pages,)``, int32: pages of ``group`` by position.

        A view, valid until the cache is next called with this lease.
        """
        return self.table[group, : self.num_pages]

    @property
    def num_published(self) -> int:
        """Positions that the tree knows."""
        return self.node.end

    def append(self, count: int) -> PageArray:
        """Add ``count`` positions; returns their ``(num_groups, count)`` of the table, to fill."""
        start, stop = self.num_pages, self.num_pages + count
        if stop > self.table.shape[1]:
            capacity = max(stop, 2 * self.table.shape[1])
            table = np.full((self.table.shape[0], capacity), ABSENT, dtype=np.int32)
            given = np.zeros(table.shape, dtype=np.bool_)
            table[:, :start], given[:, :start] = self.table[:, :start], self.given[:, :start]
            self.table, self.given = table, given
        self.num_pages = stop
        return self.table[:, start:stop]
