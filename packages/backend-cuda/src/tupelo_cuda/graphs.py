"""Capturing device work once, and replaying it: the only place that knows ``CUDAGraph``."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class Graph(Protocol):
    """Device work that was captured."""

    def replay(self) -> None:
        """Submit it to the current stream; it reads and writes the memory that it was captured
        with."""
        ...


class Capture(Protocol):
    """Captures functions that submit device work and read nothing on the host."""

    def __call__(self, fn: Callable[[], T]) -> tuple[Graph, T]:
        """Capture ``fn`` on the current stream, without running it; returns the graph and ``fn``'s
        value, whose tensors each replay fills."""
        ...


class CudaCapture(Capture):
    """CUDA graphs that share one memory pool: they never run at the same time.

    Capture the largest first: the smaller ones then fit into its memory.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, fn: Callable[[], T]) -> tuple[Graph, T]:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            value = fn()
        finally:
            graph.capture_end()
        return graph, value
