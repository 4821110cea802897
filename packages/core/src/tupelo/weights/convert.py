"""Host arrays onto the device, in bounded pieces."""

import numpy as np
import torch
from torch import Tensor

from tupelo.checkpoint import HostTensor
from tupelo.errors import UnsupportedModel
from tupelo.layers.parameter import Slices

PIECE_BYTES = 64 << 20
"""Most bytes copied at once: what loading needs beside the weights themselves."""

_BITS = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
_FLOATS = {"float64", "float32", "float16"} | _BITS


def place(source: HostTensor, take: Slices, target: Tensor, offset: float = 0.0) -> None:
    """``target[...] = source[take] + offset``, converted to the target's type.

    Args:
        source: 1 or 2 axes; read-only views of a file are fine.
        target: of the shape of the part taken, on any device.
        offset: added in float32.

    Raises:
        UnsupportedModel: elements that are no floating-point numbers.
    """
    if source.dtype not in _FLOATS:
        raise UnsupportedModel(f"weights of type {source.dtype} are not supported")
    part = source.array[take]
    if not part.size:
        return
    step = max(1, PIECE_BYTES // max(1, part[0].nbytes))
    for start in range(0, len(part), step):
        piece = _tensor(part[start : start + step], source.dtype)
        if offset:
            piece = piece.float() + offset
        target[start : start + step].copy_(piece)


def _tensor(array: np.ndarray, dtype: str) -> Tensor:
    """A tensor over ``array``, or over a copy where it is not ours to write."""
    if not (array.flags.writeable and array.flags.c_contiguous):
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.view(getattr(torch, dtype)) if dtype in _BITS else tensor
