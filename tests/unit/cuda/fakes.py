"""A capture without a device: a graph that runs its function again, into the same memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch

from tupelo.backend import Ticket, TorchRuntime


class FakeGraph:
    """Replays by calling; what the function returns is copied into what it returned first."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        self._fn = fn
        self.value = fn()
        self.num_replays = 0

    def replay(self) -> None:
        """As a real graph: only the memory that was captured changes."""
        self.num_replays += 1
        with torch.inference_mode():
            for old, new in zip(self.value, self._fn(), strict=True):
                old.copy_(new)


class FakeCapture:
    """Keeps every graph it made."""

    def __init__(self) -> None:
        self.graphs: list[FakeGraph] = []

    def __call__(self, fn: Callable[[], Any]) -> tuple[FakeGraph, Any]:
        """As ``tupelo_cuda.graphs.Capture``."""
        self.graphs.append(FakeGraph(fn))
        return self.graphs[-1], self.graphs[-1].value


class CopyingRuntime(TorchRuntime):
    """The CPU as a device of its own: what arrives on the host is a copy."""

    def to_host(self, tensors: Sequence[torch.Tensor]) -> Ticket[list[npt.NDArray[Any]]]:
        return super().to_host([tensor.clone() for tensor in tensors])
