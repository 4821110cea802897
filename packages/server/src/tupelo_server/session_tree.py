"""One session: a tree of requests, each of which goes on from an earlier one, or begins anew.

::

    a ── b ── c        a node holds what its request added: its input, then its output;
    └─── d             what stands before that are the first ``kept`` tokens of its parent

Nothing here waits or knows of HTTP; ``sessions.py`` has the sessions of a server.
"""

import asyncio
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tupelo.errors import InvalidRequest

RECORD_TOKENS = 256
"""What a request counts beside its tokens: the memory that its own record takes, about 1 KiB."""


@dataclass(eq=False, slots=True)
class Node:
    """One request of a session.

    Attributes:
        kept: tokens of ``parent`` that stand before ``own``.
        own: ids of its input, and from ``num_input`` on of its output so far.
        live: the engine's id of the request while it runs, then "".
        ended: set when it ends, and None from then on.
    """

    rid: str
    parent: "Node | None"
    kept: int
    own: "array[int]"
    num_input: int
    live: str = ""
    children: list["Node"] = field(default_factory=list)
    ended: asyncio.Event | None = field(default_factory=asyncio.Event)

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt, with all before it."""
        return self.kept + self.num_input

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output."""
        return self.kept + len(self.own)

    def ids(self, num_tokens: int) -> tuple[int, ...]:
        """The first ``num_tokens`` tokens of prompt and output."""
        parts, node, end = [], self, num_tokens
        while True:
            if end > node.kept:
                parts.append(node.own[: end - node.kept])
                end = node.kept
            if node.parent is None or not end:
                break
            node = node.parent
        return tuple(token for part in reversed(parts) for token in part)

    def walk(self) -> Iterator["Node"]:
        """This node and all that went on from it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            waiting += node.children
            yield node


@dataclass(eq=False, slots=True)
class Session:
    """The tree. ``num_tokens`` is what it weighs: its nodes' own tokens, and ``RECORD_TOKENS`` a
    node.

    Attributes:
        capacity_chars: characters that a request may have with all before it.
        timeout_s: seconds that it stays open while nothing is asked of it.
        num_running: requests that run, forgotten ones too.
        used_s: when something was asked of it last (``time.monotonic``).
        open: whether it takes requests. timer: what closes it when it is idle.
    """

    capacity_chars: int
    timeout_s: float
    nodes: dict[str, Node] = field(default_factory=dict)
    num_tokens: int = 0
    num_running: int = 0
    used_s: float = field(default_factory=time.monotonic)
    open: bool = True
    timer: asyncio.TimerHandle | None = None

    def find(self, rid: str) -> Node:
        """The request of this id.

        Raises:
            InvalidRequest: there is none.
        """
        node = self.nodes.get(rid)
        if node is None:
            raise InvalidRequest(
                "session_params.rid: the session has no such request", param="session_params"
            )
        return node

    def add(self, node: Node) -> None:
        """A request begins.

        Raises:
            InvalidRequest: its id is taken.
        """
        if node.rid in self.nodes:
            raise InvalidRequest(
                "rid: the session has a request of this id already; give another, or none",
                param="rid",
            )
        self.nodes[node.rid] = node
        if node.parent is not None:
            node.parent.children.append(node)
        self.num_running += 1
        self.used_s = time.monotonic()
        self.num_tokens += len(node.own) + RECORD_TOKENS

    def extend(self, node: Node, ids: Sequence[int]) -> None:
        """Output of a running request."""
        node.own.extend(ids)
        if self.holds(node):
            self.num_tokens += len(ids)

    def end(self, node: Node, *, keep: bool) -> None:
        """A request ends; without ``keep`` it is forgotten."""
        node.live = ""
        if node.ended is not None:
            node.ended.set()
            node.ended = None
        self.num_running -= 1
        self.used_s = time.monotonic()
        if self.holds(node) and not keep:
            self.remove([node])

    def remove(self, roots: Sequence[Node]) -> list[str]:
        """Forget these requests and all that went on from them; the engine's ids of those that
        still run."""
        running = []
        for root in roots:
            if root.parent is not None:
                root.parent.children.remove(root)
            for node in root.walk():
                del self.nodes[node.rid]
                self.num_tokens -= len(node.own) + RECORD_TOKENS
                if node.live:
                    running.append(node.live)
        return running

    def roots(self) -> list[Node]:
        """Requests that began anew."""
        return [node for node in self.nodes.values() if node.parent is None]

    def holds(self, node: Node) -> bool:
        """Whether a request has not been forgotten."""
        return self.nodes.get(node.rid) is node
