"""The prefix tree: which pages hold the K/V of which token prefix, one root a namespace.

Owns the structure (nodes, splits, locks along paths). It neither frees pages nor decides what goes:
see ``eviction``.

::

    Namespace("", "")  ──  [0 ──── A ──── 6) ──┬── [6 ─ B ─ 8)
                                               └── [6 ──── C ──── 12)

Positions count whole pages from the start of the prompt. A node holds the tokens of its pages and,
for every page group, one page id a position; a window group's page may be absent. Children differ
in their first page and are looked up by its exact tokens, so a hash only ever speeds a lookup.
"""

import itertools
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tupelo.cache.pages import PageArray

TokenArray = npt.NDArray[np.int64]
_Scalar = TypeVar("_Scalar", bound=np.generic)
_serials = itertools.count(1)


class Namespace(NamedTuple):
    """What must be equal, apart from tokens, for one request to read another's pages."""

    salt: str = ""
    adapter: str = ""


class Node:
    """A run of whole pages.

    Attributes:
        namespace: the namespace of its root.
        tokens: ``(num_pages * page_size,)``, int64, the cache-key ids.
        pages: ``(num_groups, num_pages)``, int32, ABSENT where a window group holds none.
        start: position of its first page, in pages.
        parent: None for a root. A root has no tokens.
        pins: leases whose published prefix ends at this node's end.
        locks: pins, plus the children that have locks; a node with none is evictable, and so are
            all below it.
        last_access, hits: for eviction; logical time, and how often a request matched it.
        serial: another for each node, so that who looks twice knows it again.
    """

    __slots__ = (
        "children",
        "hits",
        "last_access",
        "locks",
        "namespace",
        "pages",
        "parent",
        "pins",
        "serial",
        "start",
        "tokens",
    )

    def __init__(
        self,
        namespace: Namespace,
        tokens: TokenArray,
        pages: PageArray,
        start: int,
        parent: "Node | None",
    ) -> None:
        self.namespace = namespace
        self.tokens = tokens
        self.pages = pages
        self.start = start
        self.parent = parent
        self.children: dict[bytes, Node] = {}
        self.pins = 0
        self.locks = 0
        self.last_access = 0
        self.hits = 0
        self.serial = next(_serials)

    @property
    def num_pages(self) -> int:
        """Positions in this node."""
        return int(self.pages.shape[1])

    @property
    def end(self) -> int:
        """Position after the last page."""
        return self.start + int(self.pages.shape[1])


def key_ids(ids: npt.NDArray[np.integer]) -> TokenArray:
    """``ids`` as the tree compares them: ``(num_tokens,)``, contiguous, int64."""
    return np.ascontiguousarray(ids, dtype=np.int64)


def page_key(tokens: TokenArray) -> bytes:
    """Dictionary key of one page of tokens. Equal keys mean equal tokens."""
    return tokens.tobytes()


def common_pages(left: TokenArray, right: TokenArray, page_size: int) -> int:
    """Whole pages that ``left`` and ``right`` share from their starts."""
    length = min(len(left), len(right))
    if length == 0:
        return 0
    differs = left[:length] != right[:length]
    first = int(differs.argmax())
    return (first if differs[first] else length) // page_size


class RadixTree:
    """All roots, and what keeps them consistent.

    Attributes:
        page_size: tokens a page.
        roots: one for each namespace in use; dropped with its last node and pin.
        locked_pages: positions in nodes that have locks.
        num_nodes: nodes that are no roots.
    """

    def __init__(self, page_size: int, num_groups: int) -> None:
        self.page_size = page_size
        self.roots: dict[Namespace, Node] = {}
        self.locked_pages = 0
        self.num_nodes = 0
        self._num_groups = num_groups

    def root(self, namespace: Namespace) -> Node:
        """The root of ``namespace``, made if absent (the caller pins it)."""
        node = self.roots.get(namespace)
        if node is None:
            pages = np.empty((self._num_groups, 0), dtype=np.int32)
            node = Node(namespace, np.empty(0, dtype=np.int64), pages, 0, None)
            self.roots[namespace] = node
        return node

    def walk(self, node: Node, ids: TokenArray, limit: int) -> list[tuple[Node, int]]:
        """Nodes below ``node`` that ``ids`` runs through, each with how many of its pages match.

        ``ids`` starts at the root, its first ``node.end`` pages are taken to match already, and at
        most ``limit`` pages of it are looked at. Only the last node can match in part.
        """
        size = self.page_size
        path: list[tuple[Node, int]] = []
        position = node.end
        while position < limit:
            child = node.children.get(page_key(ids[position * size : (position + 1) * size]))
            if child is None:
                break
            count = common_pages(child.tokens, ids[position * size : limit * size], size)
            path.append((child, count))
            position += count
            if count < child.num_pages:
                break
            node = child
        return path

    def split(self, node: Node, count: int) -> Node:
        """Cut ``node`` after ``count`` pages; returns the new upper node.

        The lower part stays the same object, so pins and claims at its end remain true.
        """
        assert 0 < count < node.num_pages
        assert node.parent is not None
        cut = count * self.page_size
        upper = Node(
            node.namespace,
            node.tokens[:cut].copy(),
            node.pages[:, :count].copy(),
            node.start,
            node.parent,
        )
        upper.last_access, upper.hits = node.last_access, node.hits
        upper.locks = 1 if node.locks else 0
        node.parent.children[self._first_key(upper)] = upper
        node.tokens = node.tokens[cut:].copy()
        node.pages = node.pages[:, count:].copy()
        node.start, node.parent = upper.end, upper
        upper.children[self._first_key(node)] = node
        self.num_nodes += 1
        return upper

    def add_leaf(self, parent: Node, tokens: TokenArray, pages: PageArray) -> Node:
        """A new, unlocked child of ``parent``; copies both arrays."""
        node = Node(parent.namespace, tokens.copy(), pages.copy(), parent.end, parent)
        key = self._first_key(node)
        assert key not in parent.children, "the tree has this page already"
        parent.children[key] = node
        self.num_nodes += 1
        return node

    def grow(self, node: Node, tokens: TokenArray, pages: PageArray) -> None:
        """Append pages to a leaf in place: decoding leaves no chain of one-page nodes."""
        assert not node.children
        assert node.parent is not None
        node.tokens = np.concatenate((node.tokens, tokens))
        node.pages = np.concatenate((node.pages, pages), axis=1)
        if node.locks:
            self.locked_pages += pages.shape[1]

    def drop_tail(self, node: Node, count: int) -> None:
        """Remove the last ``count`` pages of an unlocked leaf, and the leaf with its last page."""
        assert not node.children
        assert not node.locks
        keep = node.num_pages - count
        if keep == 0:
            self.detach(node)
            return
        node.tokens = _shorten(node.tokens, keep * self.page_size)
        node.pages = _shorten(node.pages, keep)

    def detach(self, node: Node) -> list[Node]:
        """Take an unlocked ``node`` and all below it out of the tree; returns these nodes."""
        parent = node.parent
        assert parent is not None
        assert not node.locks
        del parent.children[self._first_key(node)]
        nodes = [node]
        for below in nodes:
            nodes.extend(below.children.values())
        self.num_nodes -= len(nodes)
        return nodes

    def pin(self, node: Node) -> None:
        """Protect every page from the root to the end of ``node``."""
        node.pins += 1
        above: Node | None = node
        while above is not None:
            above.locks += 1
            if above.locks > 1:
                break
            self.locked_pages += above.num_pages
            above = above.parent

    def unpin(self, node: Node) -> None:
        """Undo one ``pin``; a root without pins and children is dropped."""
        assert node.pins > 0
        node.pins -= 1
        above: Node | None = node
        while above is not None:
            above.locks -= 1
            if above.locks:
                break
            self.locked_pages -= above.num_pages
            above = above.parent
        if node.parent is None:
            self.drop_root_if_empty(node)

    def drop_root_if_empty(self, node: Node) -> None:
        """Forget a root that nobody uses, so that salts do not pile up."""
        if not node.children and not node.pins:
            self.roots.pop(node.namespace, None)

    def _first_key(self, node: Node) -> bytes:
        return page_key(node.tokens[: self.page_size])


def _shorten(array: npt.NDArray[_Scalar], length: int) -> npt.NDArray[_Scalar]:
    """``array[..., :length]``, copied once a view would keep twice the memory that it needs."""
    view = array[..., :length]
    base = array.base
    held = base.size if isinstance(base, np.ndarray) else array.size
    return view.copy() if 2 * view.size <= held else view
