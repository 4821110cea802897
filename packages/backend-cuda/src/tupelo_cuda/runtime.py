"""The GPU as a machine: memory, one stream for all steps, copies that never block the host."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import TorchRuntime
from tupelo.backend.runtime import Event


class CudaRuntime(TorchRuntime):
    """``Runtime`` over ``torch.cuda``.

    Steps run on a stream of their own, which capturing needs. Entering ``stream()`` orders it after
    what was submitted outside, and leaving it orders the outside after the steps, so that weights
    loaded or tensors made on the default stream need no other care.

    Args:
        device: such as ``"cuda:0"``.
    """

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def memory(self) -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(self.device)
        return free, total

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def release_unused(self) -> None:
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def stream(self) -> AbstractContextManager[Any]:
        outer = torch.cuda.current_stream(self.device)
        return nullcontext() if outer == self._side else self._joined(outer)

    def event(self) -> Event:
        return torch.cuda.Event()  # type: ignore[no-untyped-call]

    def to_device(self, array: npt.NDArray[Any]) -> Tensor:
        """Copy through pinned memory of torch's caching host allocator, which hands a block out
        again only when the copies that read it have run; ``array`` may change at once."""
        staged = torch.from_numpy(array).pin_memory()
        return staged.to(self.device, non_blocking=True)

    @contextmanager
    def _joined(self, outer: torch.cuda.Stream) -> Iterator[None]:
        self._side.wait_stream(outer)
        try:
            with torch.cuda.stream(self._side):
                yield
        finally:
            outer.wait_stream(self._side)
