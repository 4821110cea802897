"""HIP graphs, which torch's ROCm builds call by CUDA's names."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tupelo.backend.graphs.capture import TorchCapture


def hip_capture(captured: Callable[[], None]) -> TorchCapture:
    """A capture of HIP graphs; ``captured`` is told of each."""
    return TorchCapture(torch.cuda.CUDAGraph, torch.cuda.graph_pool_handle(), unowned, captured)


_CODES = {1: "|u1", 2: "<i2", 4: "<i4", 8: "<i8"}


class _Memory:
    """Device memory as torch's array interface describes it; owns nothing."""

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
