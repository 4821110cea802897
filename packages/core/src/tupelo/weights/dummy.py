"""Weights without a checkpoint: seeded, the same on every device and for every number of ranks.

For tests and for measuring speed. Values are scaled so that activations stay finite through any
depth and tokens differ from step to step.
"""

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from tupelo.checkpoint import ModelConfig
from tupelo.layers import Source
from tupelo.models import Model
from tupelo.weights.loader import parameter_places

POOL_SIZE = 4_194_301
"""Normal values drawn once and read round and round; prime, so that no two rows are equal."""

_BIAS = 0.1
_GAIN = 1.5
_QUERY_KEY_GAIN = 3.0
_HEAD_NORM = 2.0


def dummy_weights(model: Model, seed: int, *, device: torch.device | str) -> None:
    """Fill every parameter of ``model`` with values that depend on ``seed`` and its name alone.

    Matrices are normal with a standard deviation of ``gain / sqrt(in_features)``, norms multiply
    by 1, biases are small. The gain is above 1, and q and k are larger still so that attention
    picks tokens instead of averaging them: otherwise all positions of a deep model end up alike. A
    tied embedding is small once scaled, because its head would repeat the last token for ever; the
    last norm makes up for it.
    """
    where = torch.device(device)
    pool = np.random.default_rng(seed).standard_normal(POOL_SIZE, dtype=np.float32)
    normal = torch.from_numpy(pool).to(where)
    for uses in parameter_places(model).values():
        for parameter, source in uses:
            target = parameter.allocate(model.options.dtype, where)
            values = _values(source, model.config, normal, target.dtype)
            target[source.place].copy_(values[source.take])


def _values(source: Source, config: ModelConfig, normal: Tensor, dtype: torch.dtype) -> Tensor:
    """The whole checkpoint tensor, on the device of ``normal``: nothing of its size is made on the
    host."""
    if source.name.lower().endswith("norm.weight"):
        gain = _norm_gain(source.name, config)
        return torch.full(source.shape, gain, dtype=dtype, device=normal.device)
    start = zlib.crc32(source.name.encode()) % len(normal)
    once = (torch.roll(normal, -start) * _scale(source, config)).to(dtype)
    size = math.prod(source.shape)
    times = -(-size // len(once))
    return once.expand(times, -1).reshape(-1)[:size].view(source.shape)


def _norm_gain(name: str, config: ModelConfig) -> float:
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return _HEAD_NORM
    last = config.tie_word_embeddings and ".layers." not in name
    return config.embedding_scale if last else 1.0


def _scale(source: Source, config: ModelConfig) -> float:
    if len(source.shape) == 1:
        return _BIAS
    width = 1.0 / math.sqrt(source.shape[-1])
    if source.name.endswith("embed_tokens.weight"):
        return width / config.embedding_scale if config.tie_word_embeddings else 1.0
    picks = source.name.endswith(("q_proj.weight", "k_proj.weight"))
    return width * (_QUERY_KEY_GAIN if picks else _GAIN)
