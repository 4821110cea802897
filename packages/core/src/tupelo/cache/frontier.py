"""Who will compute which pages next, so that no two live requests compute the same one.

A claim belongs to a lease and covers the pages from the lease's frontier (where its published
prefix ends) to the end of what it will compute. Claims are found by frontier node and by the exact
tokens of the next page, so a look-up costs O(nodes of the prefix), however many requests wait.
"""

from typing import NamedTuple

from tupelo.cache.lease import Lease
from tupelo.cache.radix import Node, TokenArray, common_pages, page_key


class Frontier(NamedTuple):
    """A live request that will compute the page that another one needs next.

    Attributes:
        owner: its lease.
        shared_tokens: tokens from the asker's match on that both have, in whole pages.
    """

    owner: Lease
    shared_tokens: int


class Claim:
    """Pages that ``lease`` will compute: up to position ``end`` of ``ids``.

    Attributes:
        order: claims made later have a greater one; an owner only ever waits for an earlier claim.
        key: where the index holds it now, or None where nothing is left to compute.
    """

    __slots__ = ("end", "ids", "key", "lease", "order")

    def __init__(self, lease: Lease, ids: TokenArray, end: int, order: int) -> None:
        self.lease = lease
        self.ids = ids
        self.end = end
        self.order = order
        self.key: tuple[Node, bytes] | None = None


class FrontierIndex:
    """All claims of live leases."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._claims: dict[tuple[Node, bytes], list[Claim]] = {}
        self._order = 0

    def claim(self, lease: Lease, ids: TokenArray, end: int) -> None:
        """Say that ``lease`` will compute the pages of ``ids`` up to position ``end``.

        A later call replaces tokens and end, and keeps the lease's place among the owners.
        """
        if lease.claim is None:
            self._order += 1
            lease.claim = Claim(lease, ids, end, self._order)
        else:
            lease.claim.ids, lease.claim.end = ids, end
        self.update(lease)

    def unclaim(self, lease: Lease) -> None:
        """Take back the claim of ``lease``, if any."""
        if lease.claim is not None:
            self._take_out(lease.claim)
            lease.claim = None

    def update(self, lease: Lease) -> None:
        """Follow ``lease`` to its present frontier."""
        claim = lease.claim
        if claim is None:
            return
        self._take_out(claim)
        start = lease.node.end
        if start < claim.end:
            size = self._page_size
            claim.key = (lease.node, page_key(claim.ids[start * size : (start + 1) * size]))
            self._claims.setdefault(claim.key, []).append(claim)

    def find(
        self, path: list[Node], ids: TokenArray, matched: int, waiter: Lease | None
    ) -> Frontier | None:
        """The owner of page ``matched`` of ``ids``; the one that shares most, then the earliest.

        ``path`` are the nodes, root first, that hold the first ``matched`` pages. The owner's
        frontier may lie before the match, when others published the pages between.
        """
        size = self._page_size
        limit = len(ids) // size
        own = waiter.claim if waiter is not None else None
        best: Claim | None = None
        most = 0
        for node in path:
            at = node.end
            if at > matched or at >= limit or not self._claims:
                break
            for claim in self._claims.get((node, page_key(ids[at * size : (at + 1) * size])), ()):
                if claim.lease is waiter or (own is not None and claim.order > own.order):
                    continue
                rest = slice(at * size, claim.end * size)
                shared = at + common_pages(claim.ids[rest], ids[rest], size) - matched
                if shared > most or (shared == most and best and claim.order < best.order):
                    best, most = claim, shared
        return Frontier(best.lease, most * size) if best is not None else None

    def _take_out(self, claim: Claim) -> None:
        if claim.key is None:
            return
        claims = self._claims[claim.key]
        claims.remove(claim)
        if not claims:
            del self._claims[claim.key]
        claim.key = None
