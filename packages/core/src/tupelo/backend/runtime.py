"""The device as a machine: memory, ordering, staging, asynchronous copies to the host.

``Runtime`` is what core asks of a device; ``TorchRuntime`` answers for any device that
``torch.accelerator`` knows and for the CPU.
"""

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@runtime_checkable
class Ticket(Protocol[T_co]):
    """A result that is on its way to the host."""

    def ready(self) -> bool:
        """Whether ``wait`` returns without blocking."""
        ...

    def wait(self) -> T_co:
        """Block until the result is on the host, and return it."""
        ...


class Done(Ticket[T]):
    """A ticket whose result is already there."""

    def __init__(self, value: T) -> None:
        self._value = value

    def ready(self) -> bool:
        return True

    def wait(self) -> T:
        return self._value


class Mapped(Ticket[T]):
    """A ticket for ``fn`` of another ticket's result; ``fn`` runs once, on the host, at
    ``wait``."""

    def __init__(self, source: Ticket[Any], fn: Callable[[Any], T]) -> None:
        self._source = source
        self._fn = fn
        self._value: list[T] = []

    def ready(self) -> bool:
        return self._source.ready()

    def wait(self) -> T:
        if not self._value:
            self._value.append(self._fn(self._source.wait()))
        return self._value[0]


class Event(Protocol):
    """A point in the device's order of work."""

    def record(self) -> None:
        """Mark the point after everything submitted so far."""
        ...

    def query(self) -> bool:
        """Whether the device has passed the point."""
        ...

    def synchronize(self) -> None:
        """Block until it has."""
        ...


@runtime_checkable
class Profile(Protocol):
    """A recording of what host and device do, under way."""

    def stop(self, path: Path) -> None:
        """End it, and write it to ``path`` as a Chrome trace in JSON (gzipped if the name ends in
        ``.gz``)."""
        ...


@runtime_checkable
class Runtime(Protocol):
    """What core asks of a device."""

    device: torch.device

    def memory(self) -> tuple[int, int]:
        """Bytes free and bytes in all, of the memory that weights and K/V live in."""
        ...

    def allocated(self) -> int:
        """Bytes of that memory that this process holds; by default, that anybody does."""
        free, total = self.memory()
        return total - free

    def release_unused(self) -> None:
        """Give memory that was freed back to the system; for the end of loading, not for steps. By
        default it stays where it is."""
        return

    def synchronize(self) -> None:
        """Block until everything submitted has run."""
        ...

    def stream(self) -> AbstractContextManager[Any]:
        """A context in which work is submitted to the step's stream, in the mode of torch that the
        device needs, whatever it is outside."""
        ...

    def event(self) -> Event:
        """A new event."""
        ...

    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A numpy view over memory from which copies to the device are asynchronous."""
        ...

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A zeroed tensor on the device; where the device is the host, pages are taken when
        written."""
        return torch.zeros(tuple(shape), dtype=dtype, device=self.device)

    def to_device(self, array: npt.NDArray[Any]) -> Tensor:
        """Copy to the device in stream order; ``array`` must stay unchanged until that has run."""
        ...

    def to_host(self, tensors: Sequence[Tensor]) -> Ticket[list[npt.NDArray[Any]]]:
        """Copy to the host in stream order without blocking."""
        ...

    def profile(self, *, on_device: bool, with_stack: bool, record_shapes: bool) -> Profile:
        """Start recording; one at a time, started and stopped by the thread that runs steps.

        Args:
            on_device: record the device's kernels too, not only what the host does.
            with_stack: the Python stack of each op. record_shapes: the shapes of its inputs.

        By default torch records whatever devices it knows.
        """
        return _TorchProfile(
            torch.profiler.profile(with_stack=with_stack, record_shapes=record_shapes)
        )


class _HostEvent(Event):
    """The event of a device that has finished whatever was submitted."""

    def record(self) -> None:
        self._time = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        return


class _DeviceCopy(Ticket[list[npt.NDArray[Any]]]):
    """Host tensors that are valid once the event has passed."""

    def __init__(self, tensors: list[Tensor], event: Event) -> None:
        self._tensors = tensors
        self._event = event

    def ready(self) -> bool:
        return self._event.query()

    def wait(self) -> list[npt.NDArray[Any]]:
        self._event.synchronize()
        return [t.numpy() for t in self._tensors]


class _TorchProfile(Profile):
    """torch's profiler, recording."""

    def __init__(self, profiler: torch.profiler.profile) -> None:
        self._profiler = profiler
        profiler.start()

    def stop(self, path: Path) -> None:
        self._profiler.stop()
        self._profiler.export_chrome_trace(str(path))


class TorchRuntime(Runtime):
    """``Runtime`` over torch: the CPU, or the device type that ``torch.accelerator`` manages.

    Args:
        device: a torch device name, with an index where there are several.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._on_host = self.device.type == "cpu"
        self._stream = None if self._on_host else torch.Stream(device=self.device)

    def memory(self) -> tuple[int, int]:
        if self._on_host:
            usage = psutil.virtual_memory()
            return usage.available, usage.total
        free, total = torch.accelerator.get_memory_info(self.device)
        return free, total

    def allocated(self) -> int:
        if self._on_host:
            usage = psutil.Process().memory_info()
            return int(usage.rss - getattr(usage, "shared", 0))  # without mapped files
        return torch.accelerator.memory_allocated(self.device)

    def release_unused(self) -> None:
        if not self._on_host:
            torch.accelerator.memory.empty_cache()
            return
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)

    def synchronize(self) -> None:
        if not self._on_host:
            torch.accelerator.synchronize(self.device)

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else self._stream

    def event(self) -> Event:
        return _HostEvent() if self._on_host else torch.Event(device=self.device)

    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        if self._on_host:
            return np.empty(shape, dtype)
        sample = torch.from_numpy(np.empty(0, dtype))
        pinned: npt.NDArray[Any] = torch.empty(
            tuple(shape), dtype=sample.dtype, pin_memory=True
        ).numpy()
        return pinned

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if not self._on_host:
            return torch.zeros(tuple(shape), dtype=dtype, device=self.device)
        num_bytes = math.prod(shape) * dtype.itemsize
        return torch.from_numpy(np.zeros(num_bytes, np.uint8)).view(dtype).view(tuple(shape))

    def to_device(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_host else tensor.to(self.device, non_blocking=True)

    def to_host(self, tensors: Sequence[Tensor]) -> Ticket[list[npt.NDArray[Any]]]:
        if self._on_host:
            return Done([t.detach().numpy() for t in tensors])
        copies = [
            torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
            for t in tensors
        ]
        event = self.event()
        event.record()
        return _DeviceCopy(copies, event)

    def profile(self, *, on_device: bool, with_stack: bool, record_shapes: bool) -> Profile:
        activities = {torch.profiler.ProfilerActivity.CPU}
        if on_device:
            activities = torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
        return _TorchProfile(
            torch.profiler.profile(
                activities=activities, with_stack=with_stack, record_shapes=record_shapes
            )
        )
