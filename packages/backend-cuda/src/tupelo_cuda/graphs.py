"""Capturing device work once, and replaying it: the only place that knows ``CUDAGraph``."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import torch
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


class CudaCapture(Capture):
    """CUDA graphs that share one memory pool: they never run at the same time.

    Their results are not owned by whoever holds them, so a later capture uses the same memory
    again. Capture the largest first: the smaller ones then fit into its memory.

    Args:
        captured: told of each graph.
    """

    def __init__(self, captured: Callable[[], None]) -> None:
        self._captured = captured
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []  # the pool lives as long as one of them
        self._open: torch.cuda.CUDAGraph | None = None

    def __call__(self, fn: Callable[[], Tensors]) -> tuple[Graph, Tensors]:
        self.begin()
        try:
            value = fn()
        except BaseException:
            self.drop()
            raise
        graph = self.end()
        return graph, tuple(unowned(tensor) for tensor in value)

    def begin(self) -> None:
        self._open = torch.cuda.CUDAGraph()
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
        return unowned(tensor)


_CODES = {1: "|u1", 2: "<i2", 4: "<i4", 8: "<i8"}


class _Memory:
    """Device memory as the CUDA array interface describes it; owns nothing."""

    def __init__(self, tensor: Tensor) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple(n * tensor.element_size() for n in tensor.stride()),
            "typestr": _CODES[tensor.element_size()],
            "version": 3,
        }


def unowned(tensor: Tensor) -> Tensor:
    """A tensor over the same device memory that does not keep it allocated."""
    return torch.as_tensor(_Memory(tensor), device=tensor.device).view(tensor.dtype)
