"""Responses that are made in the background: a task each, and those who follow its events."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from tupelo_server.connection import event
from tupelo_server.errors import as_request_error
from tupelo_server.generation import Delta
from tupelo_server.protocol.responses_reply import ResponseReply
from tupelo_server.response_store import Entry, ResponseStore


def named(data: dict[str, Any]) -> bytes:
    """An event of this API, which says its type twice."""
    name: str = data["type"]
    return b"event: " + name.encode() + b"\n" + event(data)


class Run:
    """One response being made. It ends by itself, or is cancelled; then the store has it.

    Attributes:
        streams: whether its events are kept for those who follow.
    """

    def __init__(
        self,
        reply: ResponseReply,
        deltas: AsyncGenerator[Delta, None],
        store: ResponseStore,
        entry: Entry,
        own: list[dict[str, Any]],
        *,
        streams: bool,
    ) -> None:
        """Begin; ``entry`` is kept by ``store`` from now on, ``own`` are its new items.

        Raises:
            QueueFull: it is not; nothing has begun.
        """
        self._reply: ResponseReply | None = reply
        self.streams = streams
        self._store = store
        self._entry = entry
        self._own = own
        self._events: list[bytes] | None = [] if streams else None
        self._news = asyncio.Event()
        entry.run = self
        store.begin(entry)
        self._publish(reply.queued())
        self._task = asyncio.create_task(self._work(deltas))
        self._task.add_done_callback(self._on_end)

    @property
    def response(self) -> dict[str, Any]:
        """The response as it is now; for as long as it is being made."""
        return self._live.response

    async def cancel(self) -> None:
        """End it now, and free its request in the engine; no error if it has ended."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Its events whose numbers are above ``after``, as they come, to the last."""
        place = max(after + 1, 0)
        while True:
            news, events = self._news, self._events
            over = self._reply is None
            if events is None:
                message = "the events are too long to be kept; ask for the response"
                told = {"code": "server_error", "message": message, "param": None}
                yield named({"type": "error", "sequence_number": place, **told})
                return
            if place < len(events):
                yield b"".join(events[place:])
                place = max(place, len(events))
            elif over:
                return
            else:
                await news.wait()

    async def _work(self, deltas: AsyncGenerator[Delta, None]) -> None:
        async with aclosing(deltas):
            async for delta in deltas:
                self._publish(self._live.events(delta))

    def _on_end(self, task: asyncio.Task[None]) -> None:
        reply = self._live
        error = None if task.cancelled() else task.exception()
        if not reply.over and error is None:
            self._publish(reply.cancelled())
        elif not reply.over:
            assert isinstance(error, Exception)
            self._publish(reply.failed(as_request_error(error)))
        self._store.end(self._entry, reply.response, self._own)
        self._reply, self._own = None, []
        self._wake()

    @property
    def _live(self) -> ResponseReply:
        assert self._reply is not None
        return self._reply

    def _publish(self, events: Iterable[dict[str, Any]]) -> None:
        new = list(map(named, events))
        if self._events is not None:
            room = self._store.grow(self._entry, sum(map(len, new)))
            if room:
                self._events += new
            else:
                self._events = None
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
