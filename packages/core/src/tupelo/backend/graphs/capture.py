"""Capturing device work once, and replaying it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from torch import Tensor

Tensors = tuple[Tensor, ...]


class Graph(Protocol):
    """Device work that was captured."""

    def replay(self) -> None:
        """Submit it to the current stream; it reads and writes the memory that it was captured
        with."""
        ...


class Capture(Protocol):
    """Captures functions that submit device work and read nothing on the host."""

    def __call__(self, fn: Callable[[], Tensors]) -> tuple[Graph, Tensors]:
        """Capture ``fn`` on the current stream, without running it.

        Returns:
            The graph, and what ``fn`` returned: tensors that a replay fills, and that hold it until
            another graph of the same capture is replayed.
        """
        ...

    def begin(self) -> None:
        """Capture what is submitted to the current stream from here on, until ``end``."""
        ...

    def end(self) -> Graph:
        """What was submitted since ``begin``."""
        ...

    def drop(self) -> None:
        """``end``, whatever came of it."""
        ...

    def keep(self, tensor: Tensor) -> Tensor:
        """A tensor that ``begin … end`` made, as replays fill it: it holds what it holds until
        another graph of the same capture is replayed, and is not kept allocated."""
        ...


class TorchGraph(Graph, Protocol):
    """The class of graphs that torch has for a device."""

    def capture_begin(self, *, pool: Any, capture_error_mode: str) -> None:
        """Capture the current stream, allocating from ``pool``."""
        ...

    def capture_end(self) -> None:
        """Stop capturing."""
        ...


class TorchCapture(Capture):
    """Torch's graphs of a device; they share one memory pool, for they never run at the same time.

    Their results are not owned by whoever holds them, so a later capture uses the same memory
    again. Capture the largest first: the smaller ones then fit into its memory.

    Args:
        make: a new graph. pool: what torch gave as the handle of a new memory pool.
        unowned: a tensor over the same device memory that does not keep it allocated.
        captured: told of each graph.
    """

    def __init__(
        self,
        make: Callable[[], TorchGraph],
        pool: Any,
        unowned: Callable[[Tensor], Tensor],
        captured: Callable[[], None],
    ) -> None:
        self._make = make
        self._pool = pool
        self._unowned = unowned
        self._captured = captured
        self._graphs: list[TorchGraph] = []  # the pool lives as long as one of them
        self._open: TorchGraph | None = None

    def __call__(self, fn: Callable[[], Tensors]) -> tuple[Graph, Tensors]:
        self.begin()
        try:
            value = fn()
        except BaseException:
            self.drop()
            raise
        graph = self.end()
        return graph, tuple(self._unowned(tensor) for tensor in value)

    def begin(self) -> None:
        self._open = self._make()
        self._open.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> Graph:
        graph, self._open = self._open, None
        assert graph is not None
        graph.capture_end()
        self._graphs.append(graph)
        self._captured()
        return graph

    def drop(self) -> None:
        graph, self._open = self._open, None
        if graph is not None:
            with suppress(RuntimeError):  # what broke it is being raised already
                graph.capture_end()

    def keep(self, tensor: Tensor) -> Tensor:
        return self._unowned(tensor)
