"""A capture without a device: a graph that runs its function again, into the same memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
        self.pieces: list[RecordedGraph] = []
        self._open = _Recorder()

    def __call__(self, fn: Callable[[], Any]) -> tuple[FakeGraph, Any]:
        """As ``tupelo.backend.graphs.capture.Capture``."""
        self.graphs.append(FakeGraph(fn))
        return self.graphs[-1], self.graphs[-1].value

    def begin(self) -> None:
        """As ``Capture.begin``; what is submitted is every torch call that computes."""
        self._open = _Recorder()
        self._open.__enter__()

    def end(self) -> "RecordedGraph":
        """As ``Capture.end``."""
        self._open.__exit__(None, None, None)
        self.pieces.append(RecordedGraph(self._open.calls))
        return self.pieces[-1]

    def drop(self) -> None:
        """As ``Capture.drop``."""
        self._open.__exit__(None, None, None)

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """As ``Capture.keep``."""
        return tensor


class _Recorder(TorchDispatchMode):
    """Notes each call with its arguments and what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, value))
        return value


class RecordedGraph:
    """Calls again what was called, into the tensors that were returned."""

    def __init__(self, calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]]) -> None:
        self._calls = calls
        self.num_replays = 0

    def replay(self) -> None:
        """As a real graph: only the memory that was captured changes."""
        self.num_replays += 1
        with torch.inference_mode():
            for func, args, kwargs, old in self._calls:
                new = func(*args, **kwargs)
                olds, news = ([x] if isinstance(x, torch.Tensor) else x for x in (old, new))
                for into, value in zip(olds or (), news or (), strict=True):
                    if into.data_ptr() != value.data_ptr():
                        into.copy_(value)


class CopyingRuntime(TorchRuntime):
    """The CPU as a device of its own: what arrives on the host is a copy."""

    def to_host(self, tensors: Sequence[torch.Tensor]) -> Ticket[list[npt.NDArray[Any]]]:
        return super().to_host([tensor.clone() for tensor in tensors])
