"""What a tensor on disk is, and its bytes as a read-only view of the mapped file."""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tupelo.errors import CheckpointError

Array = npt.NDArray[Any]

# Element type in memory of each dtype name; those without a numpy type travel as bits and keep
# their name.
NUMPY_TYPES: Final[dict[str, type[np.generic]]] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3fn": np.uint8,
    "float8_e5m2": np.uint8,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
}
MAX_DIMS: Final = 8
MAX_ELEMENTS: Final = 2**48


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """One tensor of a file, from its header.

    Attributes:
        name: the tensor's name in Hugging Face's convention (in a GGUF header: as the file has it).
        dtype: a key of ``NUMPY_TYPES``, or the name of a quantised GGUF type such as ``"Q4_1"``.
        shape: outermost axis first, e.g. (out_features, in_features).
        num_bytes: bytes on disk.
        file: the file that holds it.
        offset: of its first byte in ``file``.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    file: Path
    offset: int

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


class HostTensor(NamedTuple):
    """A tensor in host memory.

    Attributes:
        array: read-only where it is a view of the file; bfloat16 as uint16 bits, float8 as uint8
            bits.
        dtype: what the elements mean, a key of ``NUMPY_TYPES``.
    """

    array: Array
    dtype: str


def map_bytes(info: TensorInfo) -> npt.NDArray[np.uint8]:
    """The tensor's bytes, (num_bytes,), a read-only view of the file.

    Only the pages of this tensor are mapped, and they go with the last view, so that streaming
    through a checkpoint never holds more than the tensors in use.

    Raises:
        CheckpointError: the file is gone, or shorter than when its header was read.
    """
    if info.num_bytes == 0:
        return np.empty(0, np.uint8)
    start = info.offset - info.offset % mmap.ALLOCATIONGRANULARITY
    skip = info.offset - start
    try:
        with info.file.open("rb") as file:
            mapped = mmap.mmap(
                file.fileno(), skip + info.num_bytes, access=mmap.ACCESS_READ, offset=start
            )
    except (OSError, ValueError, OverflowError) as error:
        raise CheckpointError(f"cannot map tensor {info.name} of {info.file}: {error}") from error
    return np.frombuffer(mapped, np.uint8, info.num_bytes, skip)


def map_tensor(info: TensorInfo) -> HostTensor:
    """The tensor as a read-only view of the file; ``info.dtype`` must be a key of ``NUMPY_TYPES``.

    Raises:
        CheckpointError: as ``map_bytes``.
    """
    array = map_bytes(info).view(NUMPY_TYPES[info.dtype]).reshape(info.shape)
    # A writer may have placed the data at an odd offset; kernels want aligned elements.
    return HostTensor(array if array.flags.aligned else array.copy(), info.dtype)


def checked_elements(shape: tuple[int, ...], where: str) -> int:
    """Number of elements of ``shape``.

    Raises:
        CheckpointError: more axes or elements than any real tensor has.
    """
    if len(shape) > MAX_DIMS:
        raise CheckpointError(f"{where}: {len(shape)} axes; at most {MAX_DIMS} are read")
    # Bounding each axis too keeps shapes such as (0, 2**70), which hold nothing, out of numpy.
    if any(not 0 <= n <= MAX_ELEMENTS for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise CheckpointError(f"{where}: shape {list(shape)} has an impossible size")
    return math.prod(shape)
