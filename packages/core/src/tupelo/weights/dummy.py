"""Weights without a checkpoint: seeded, the same on every device and for every number of ranks.

For tests and for measuring speed. Values are scaled so that activations stay finite through any
depth and tokens differ from step to step.
"""

import zlib
from collections.abc import Iterator

import numpy as np
import torch

from tupelo.checkpoint import HostTensor
from tupelo.layers import Source
from tupelo.models import Model
from tupelo.weights.loader import fill, parameter_places

POOL_SIZE = 4_194_301
"""Normal values drawn once and read round and round; prime, so that no two rows are equal."""

BIAS_SCALE = 0.1


def dummy_weights(model: Model, seed: int, *, device: torch.device | str) -> None:
    """Fill every parameter of ``model`` with values that depend on ``seed`` and its name alone.

    Matrices are normal with variance ``1 / in_features``, norms multiply by 1, biases are small.
    """
    pool = np.random.default_rng(seed).standard_normal(POOL_SIZE, dtype=np.float32)
    fill(model, _tensors(model, pool), device)


def _tensors(model: Model, pool: np.ndarray) -> Iterator[tuple[str, HostTensor]]:
    for name, uses in parameter_places(model).items():
        yield name, HostTensor(_values(uses[0][1], pool), "float32")


def _values(source: Source, pool: np.ndarray) -> np.ndarray:
    if source.name.endswith("norm.weight"):
        return np.full(source.shape, 1.0 - source.offset, np.float32)
    scale = BIAS_SCALE if len(source.shape) == 1 else source.shape[-1] ** -0.5
    size = int(np.prod(source.shape))
    start = zlib.crc32(source.name.encode()) % len(pool)
    values = np.resize(np.roll(pool, -start), size)
    return (values * np.float32(scale)).reshape(source.shape)
