"""Host arrays onto the device, in bounded pieces."""

import numpy as np
import torch
from torch import Tensor

from tupelo.checkpoint import HostTensor
from tupelo.errors import UnsupportedModel
from tupelo.layers.parameter import Source

PIECE_BYTES = 64 << 20
"""Most bytes copied at once: what loading needs beside the weights themselves."""

_BITS = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
_FLOATS = {"float64", "float32", "float16"} | _BITS


def place(tensor: HostTensor, source: Source, target: Tensor) -> None:
    """``target[...] = tensor[source.take] + source.offset``, converted to the target's type.

    Args:
        tensor: read-only views of a file are fine.
        target: of the shape of the part taken, on any device.

    Raises:
        UnsupportedModel: elements that are no floating-point numbers.
    """
    if tensor.dtype not in _FLOATS:
        raise UnsupportedModel(
            f"{source.name} holds {tensor.dtype}; weights are read as {', '.join(sorted(_FLOATS))}"
        )
    array = tensor.array.swapaxes(-1, -2) if source.transposed else tensor.array
    part = array[source.take]
    if not part.size:
        return
    if source.paired is not None:
        part = _halves(part, *source.paired)
    step = max(1, PIECE_BYTES // max(1, part[0].nbytes))
    for start in range(0, len(part), step):
        piece = _tensor(part[start : start + step], tensor.dtype)
        if source.offset:
            piece = piece.float() + source.offset
        target[start : start + step].copy_(piece)


def _halves(rows: np.ndarray, head_dim: int, start: int, rotary_dim: int) -> np.ndarray:
    """Rows of each head reordered: first elements of all pairs, then the second ones."""
    order = np.arange(head_dim)
    turned = order[start : start + rotary_dim]
    order[start : start + rotary_dim] = np.concatenate((turned[0::2], turned[1::2]))
    heads = rows.reshape(-1, head_dim, *rows.shape[1:])
    return np.ascontiguousarray(heads[:, order]).reshape(rows.shape)


def _tensor(array: np.ndarray, dtype: str) -> Tensor:
    """A tensor over ``array``, or over a copy where it is not ours to write."""
    if not (array.flags.writeable and array.flags.c_contiguous):
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.view(getattr(torch, dtype)) if dtype in _BITS else tensor
