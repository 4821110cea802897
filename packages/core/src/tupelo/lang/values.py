"""Values that are still being made: a feed of text pieces, and the variables of a program.

One thread writes; any number of threads and event loops read and wait.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any


class Feed:
    """Pieces of text that come one after the other, until it is closed.

    Readers begin at the first piece, whenever they come.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._wakers: list[Callable[[], None]] = []

    def put(self, piece: str) -> None:
        """Add a piece; an empty one is none."""
        if piece:
            with self._changed:
                self._pieces.append(piece)
                self._notify()

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; readers that get there see ``error``, if there is one."""
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
                self._notify()

    @property
    def started(self) -> bool:
        """Whether any piece came."""
        return bool(self._pieces)

    def __iter__(self) -> Iterator[str]:
        """The pieces as they come.

        Raises:
            BaseException: what the feed was closed with.
        """
        place = 0
        while True:
            with self._changed:
                while len(self._pieces) == place and not self._closed:
                    self._changed.wait()
                pieces = self._pieces[place:]
            yield from pieces
            place += len(pieces)
            if not pieces:
                self._raise()
                return

    async def __aiter__(self) -> AsyncIterator[str]:
        """The pieces as they come, without holding the event loop up."""
        loop, woken, place = asyncio.get_running_loop(), asyncio.Event(), 0

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        with self._changed:
            self._wakers.append(wake)
        try:
            while True:
                woken.clear()
                with self._changed:
                    pieces, closed = self._pieces[place:], self._closed
                for piece in pieces:
                    yield piece
                place += len(pieces)
                if not pieces and closed:
                    self._raise()
                    return
                if not pieces:
                    await woken.wait()
        finally:
            with self._changed:
                self._wakers.remove(wake)

    def _notify(self) -> None:
        self._changed.notify_all()
        for wake in self._wakers:
            wake()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class Variable:
    """A variable of a program: declared when it is appended, set when the model has spoken.

    Attributes:
        feed: its text as it comes.
        meta: what the backend tells of the call, once it is set.
    """

    def __init__(self) -> None:
        self.feed = Feed()
        self.meta: Any = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._done = threading.Event()

    def set(self, value: Any, meta: Any = None) -> None:
        """Give it its value; a text that was not streamed goes into the feed as one piece."""
        self._value, self.meta = value, meta
        if not self.feed.started:
            self.feed.put(value if isinstance(value, str) else str(value))
        self.feed.close()
        self._done.set()

    def fail(self, error: BaseException) -> None:
        """It never gets a value; a variable that has one keeps it."""
        if not self._done.is_set():
            self._error = error
            self.feed.close(error)
            self._done.set()

    def get(self) -> Any:
        """Wait for the value.

        Raises:
            BaseException: why there is none.
        """
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value
