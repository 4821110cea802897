"""What core asks of the device: memory, order of work, and copies there and back."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import Done, Ticket, TorchRuntime


class SampleRuntime(TorchRuntime):
    """Memory, streams and events are the host's. A device with its own, which
    ``torch.accelerator`` manages, is served by ``TorchRuntime`` as it is."""

    def __init__(self, device: str) -> None:
        super().__init__("cpu")
        self.device = torch.device(device)

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.zeros(tuple(shape), dtype=dtype, device=self.device)

    def to_device(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def to_host(self, tensors: Sequence[Tensor]) -> Ticket[list[npt.NDArray[Any]]]:
        return Done([tensor.cpu().numpy() for tensor in tensors])
