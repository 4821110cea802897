"""From the engine's thread to whoever waits: a step's outputs of one receiver travel together.

A receiver is a thread, or an event loop with all of its streams; waking it once a step and not once
a token keeps the engine's thread at its own work.
"""

import asyncio
import queue
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from tupelo.engine.messages import Output

Item = tuple[int, Output | None]
"""Number of a sample within its call, and an output of it; None: the engine has ended."""


class Post(Protocol):
    """Takes what is for one receiver. Called in the engine's thread; never waits, never raises."""

    def put(self, items: Sequence[tuple["Address", Output | None]]) -> None:
        """Hand these over."""
        ...


class Address(NamedTuple):
    """Where the outputs of one sample go: its call's queue, by way of ``post``."""

    post: Post
    inbox: "queue.SimpleQueue[list[Item]] | asyncio.Queue[list[Item]]"
    number: int


class ThreadPost(Post):
    """To threads that wait for their queues."""

    def put(self, items: Sequence[tuple[Address, Output | None]]) -> None:
        _sort(items)


class LoopPost(Post):
    """To tasks of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # whose posts are kept as long as it lives

    def put(self, items: Sequence[tuple[Address, Output | None]]) -> None:
        loop = self._loop()
        if loop is not None:
            with suppress(RuntimeError):  # it has been closed: nobody waits any more
                loop.call_soon_threadsafe(_sort, items)


def deliver(items: Sequence[tuple[Address, Output | None]]) -> None:
    """Hand each output to its receiver, each receiver's at once."""
    bags: dict[Post, list[tuple[Address, Output | None]]] = {}
    for item in items:
        bags.setdefault(item[0].post, []).append(item)
    for post, bag in bags.items():
        post.put(bag)


def _sort(items: Sequence[tuple[Address, Output | None]]) -> None:
    """Into the queues, each call's at once."""
    calls: dict[int, tuple[Address, list[Item]]] = {}
    for address, output in items:
        calls.setdefault(id(address.inbox), (address, []))[1].append((address.number, output))
    for address, found in calls.values():
        address.inbox.put_nowait(found)
