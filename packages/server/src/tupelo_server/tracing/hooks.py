"""What the server calls as it serves a request: nothing happens unless the request is traced."""

import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import ParamSpec, Protocol, TypeVar

from tupelo.errors import RequestError
from tupelo_server.generation import Delta, Job
from tupelo_server.tracing.w3c import Parent

P = ParamSpec("P")
T = TypeVar("T")


class SampleTrace(Protocol):
    """The trace of one sample."""

    def add(self, delta: Delta) -> None:
        """Take note of a delta."""

    def end(self, error: RequestError | None) -> None:
        """It has ended, whichever way; ``error`` is what its client is told."""


class RequestTrace(Protocol):
    """The trace of one HTTP request, until ``end``."""

    def span(self, name: str) -> AbstractContextManager[None]:
        """A span for what is done inside."""

    def sample(self, job: Job, model: str, sent_s: float) -> SampleTrace | None:
        """A sample goes to the engine at ``sent_s`` (``time.monotonic``); None if there are so
        many that this one is left out."""

    def end(self, status: int) -> None:
        """The reply has been sent, with this status; 0 if there was none."""


class Tracing(Protocol):
    """Where traces begin, and go to."""

    def begin(self, method: str, route: str, parent: Parent | None) -> RequestTrace | None:
        """An HTTP request has come; None if it is not sampled."""

    def close(self) -> None:
        """Send what is left. Takes a few seconds at most."""


TRACE: ContextVar[RequestTrace | None] = ContextVar("tupelo_trace", default=None)
"""Of the request being served, if it is traced."""


def begin_sample(job: Job, model: str, sent_s: float) -> SampleTrace | None:
    """The trace of a sample that goes to the engine; None if it has none."""
    trace = TRACE.get()
    return None if trace is None else trace.sample(job, model, sent_s)


def spanned(name: str) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """A coroutine function whose calls are spans of this name."""

    def wrap(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            trace = TRACE.get()
            if trace is None:
                return await function(*args, **kwargs)
            with trace.span(name):
                return await function(*args, **kwargs)

        return call

    return wrap
