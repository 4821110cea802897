"""What a client's connection means for the work behind it: gone client, cancelled work."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tupelo.errors import RequestError
from tupelo_server.errors import ClientGone, as_request_error, error_event
from tupelo_server.wire import encode_json

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
EVENTS = b"text/event-stream; charset=utf-8"
LINES = b"application/x-ndjson"
_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + encode_json(data) + b"\n\n"


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` and return its result; cancel it if the client leaves first.

    Call it when the request's body has been read: from there on, the only message that a
    connection brings is its end.

    Raises:
        ClientGone: the client left; ``work`` has been cancelled and has ended.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class EventStream(Response):
    """Server-sent events, ended by ``[DONE]`` unless the API ends them otherwise, or what else an
    API streams.

    The status goes out with the first event, so that an error before it is an ordinary error
    reply; one after it is an error event. When the client leaves, the generator is closed.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        done: bytes = DONE,
        failed: Callable[[RequestError], bytes] = lambda error: event(error_event(error)),
        content_type: bytes = EVENTS,
    ) -> None:
        """Send ``events``, then ``done``; after an error, what ``failed`` makes of it first."""
        super().__init__()
        self._head = [(b"content-type", content_type), *_HEADERS]
        self._events = events
        self._done = done
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            await while_connected(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        started = False
        last = self._done
        async with aclosing(self._events) as events:
            try:
                async for data in events:
                    if not started:
                        started = True
                        await send(
                            {"type": "http.response.start", "status": 200, "headers": self._head}
                        )
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except Exception as error:
                if not started:
                    raise
                last = self._failed(as_request_error(error)) + self._done
        assert started, "a stream has at least one event"
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
