"""MXFP4 weights: blocks of 32 four-bit floats that share a power of two.

Published as two tensors, ``NAME_blocks`` (..., groups, 16) uint8 and ``NAME_scales`` (..., groups)
uint8. Here they appear as one, ``NAME_blocks`` (..., 32 * groups), which is decoded as it is read.

Source: Open Compute Project, "OCP Microscaling Formats (MX) Specification" 1.0, 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tupelo.checkpoint.tensors import HostTensor, TensorInfo, map_tensor
from tupelo.errors import CheckpointError

DTYPE: Final = "mxfp4"
_BLOCKS: Final = "_blocks"
_SCALES: Final = "_scales"
_BIAS: Final = 127
_HALF: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES: Final = np.array([*_HALF, *(-v for v in _HALF)], np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mxfp4Info(TensorInfo):
    """A tensor that is stored as blocks and scales; ``shape`` is that of its values.

    Attributes:
        blocks, scales: as stored.
    """

    blocks: TensorInfo
    scales: TensorInfo


def pair_blocks(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """``tensors`` with each pair of blocks and scales as one.

    Raises:
        CheckpointError: one without the other, or shapes that do not fit.
    """
    paired: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        if name.endswith(_SCALES) and name.removesuffix(_SCALES) + _BLOCKS in tensors:
            continue
        paired[name] = _pair(info, tensors) if name.endswith(_BLOCKS) else info
    return paired


def read_blocks(info: Mxfp4Info) -> HostTensor:
    """The values in float32.

    Raises:
        CheckpointError: as ``map_tensor``.
    """
    blocks = map_tensor(info.blocks).array
    scales = map_tensor(info.scales).array.astype(np.int32) - _BIAS
    values = np.empty((*blocks.shape, 2), np.float32)
    np.take(_VALUES, blocks & 15, out=values[..., 0])
    np.take(_VALUES, blocks >> 4, out=values[..., 1])
    flat = values.reshape(*scales.shape, -1)
    np.ldexp(flat, scales[..., None], out=flat)
    return HostTensor(flat.reshape(info.shape), "float32")


def _pair(blocks: TensorInfo, tensors: Mapping[str, TensorInfo]) -> TensorInfo:
    scales = tensors.get(blocks.name.removesuffix(_BLOCKS) + _SCALES)
    fits = (
        scales is not None
        and scales.dtype == blocks.dtype == "uint8"
        and len(blocks.shape) >= 2
        and blocks.shape[-1] == 16
        and blocks.shape[:-1] == scales.shape
    )
    if scales is None or not fits:
        raise CheckpointError(
            f"{blocks.file}: {blocks.name} {list(blocks.shape)} has no scales that fit it"
        )
    shape = (*blocks.shape[:-2], 32 * blocks.shape[-2])
    return Mxfp4Info(
        name=blocks.name,
        dtype=DTYPE,
        shape=shape,
        num_bytes=blocks.num_bytes,
        file=blocks.file,
        offset=blocks.offset,
        blocks=replace(blocks),
        scales=scales,
    )
