"""XLA's device as a machine: memory, copies, order. It runs computations in order, by itself."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import Event, Mapped, Profile, Runtime, Ticket, TorchRuntime


class XlaRuntime(Runtime):
    """``Runtime`` over torch-xla.

    Args:
        device: such as ``"xla:0"``.
    """

    def __init__(self, device: str) -> None:
        from torch_xla import _XLAC as xla

        self._xla = xla
        self.device = torch.device(device)
        self._host = TorchRuntime("cpu")
        self._on_host = xla._xla_device_kind(device) == "cpu"

    def memory(self) -> tuple[int, int]:
        if self._on_host:
            return self._host.memory()
        told = self._xla._xla_memory_info(str(self.device))
        return told["bytes_limit"] - told["bytes_used"], told["bytes_limit"]

    def allocated(self) -> int:
        if self._on_host:
            return self._host.allocated()
        return int(self._xla._xla_memory_info(str(self.device))["bytes_used"])

    def release_unused(self) -> None:
        """Compute what is pending, so that what it needed is let go."""
        self.synchronize()

    def synchronize(self) -> None:
        import torch_xla

        torch_xla.sync()
        self._xla._xla_wait_device_ops([])

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Out of torch's inference mode, in which torch-xla has no views, and without gradients."""
        with torch.inference_mode(False), torch.no_grad():
            yield

    def event(self) -> Event:
        return _XlaEvent(self)

    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return np.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        made = torch.zeros(tuple(shape), dtype=dtype, device=self.device)
        self.flush([made])
        return made

    def to_device(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def to_host(self, tensors: Sequence[Tensor]) -> Ticket[list[npt.NDArray[Any]]]:
        """Fetched at ``wait``, when they are computed."""
        held = [t.detach() for t in tensors]
        self.flush(held)
        full = [t for t in held if t.numel()]
        computed = _Computed([self.when_ready(t) for t in full[-1:]])
        return Mapped(computed, lambda _: [t.cpu().numpy() for t in held])

    def profile(self, *, on_device: bool, with_stack: bool, record_shapes: bool) -> Profile:
        """What the host does: XLA's own profiler writes traces of another kind."""
        return self._host.profile(
            on_device=False, with_stack=with_stack, record_shapes=record_shapes
        )

    def flush(self, tensors: Sequence[Tensor]) -> None:
        """Submit what ``tensors`` still wait for."""
        if tensors:
            self._xla._xla_sync_multi(list(tensors), [], False, True)

    def when_ready(self, tensor: Tensor) -> threading.Event:
        """Set once ``tensor``, which was submitted, is computed."""
        passed = threading.Event()
        self._xla._on_ready_callback(tensor, passed.set)
        return passed


class _Computed(Ticket[None]):
    """Whether tensors are there. Another thread tells, and may do so after they could be fetched:
    whoever has waited must find them ready."""

    def __init__(self, passed: Sequence[threading.Event]) -> None:
        self._passed = passed

    def ready(self) -> bool:
        return all(event.is_set() for event in self._passed)

    def wait(self) -> None:
        for event in self._passed:
            event.wait()


class _XlaEvent(Event):
    """A small computation of its own: those before it have run when it has."""

    def __init__(self, runtime: XlaRuntime) -> None:
        self._runtime = runtime
        self._passed: threading.Event | None = None

    def record(self) -> None:
        import torch_xla

        torch_xla.sync()
        marker = torch.zeros((), device=self._runtime.device).clone()
        self._runtime.flush([marker])
        self._passed = self._runtime.when_ready(marker)

    def query(self) -> bool:
        return self._passed is None or self._passed.is_set()

    def synchronize(self) -> None:
        if self._passed is not None:
            self._passed.wait()
