"""A device as a machine whose steps have a stream of their own, for any whose module of torch has
streams and events: ``torch.get_device_module``."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend.runtime import Event, TorchRuntime


class StreamRuntime(TorchRuntime):
    """``Runtime`` over a device's module of torch.

    Steps run on a stream of their own, which capturing needs. Entering ``stream()`` orders it after
    what was submitted outside, and leaving it orders the outside after the steps, so that weights
    loaded or tensors made on the default stream need no other care.

    Args:
        device: a torch device name with an index.
    """

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._module: Any = torch.get_device_module(self.device)
        self._side = self._module.Stream(self.device)

    def memory(self) -> tuple[int, int]:
        free, total = self._module.mem_get_info(self.device)
        return free, total

    def allocated(self) -> int:
        return int(self._module.memory_allocated(self.device))

    def release_unused(self) -> None:
        self._module.empty_cache()

    def synchronize(self) -> None:
        self._module.synchronize(self.device)

    def stream(self) -> AbstractContextManager[Any]:
        outer = self._module.current_stream(self.device)
        return nullcontext() if outer == self._side else self._joined(outer)

    def event(self) -> Event:
        event: Event = self._module.Event()
        return event

    def to_device(self, array: npt.NDArray[Any]) -> Tensor:
        """Copy through pinned memory of torch's caching host allocator, which hands a block out
        again only when the copies that read it have run; ``array`` may change at once."""
        staged = torch.from_numpy(array).pin_memory()
        return staged.to(self.device, non_blocking=True)

    @contextmanager
    def _joined(self, outer: Any) -> Iterator[None]:
        self._side.wait_stream(outer)
        try:
            with self._module.stream(self._side):
                yield
        finally:
            outer.wait_stream(self._side)
