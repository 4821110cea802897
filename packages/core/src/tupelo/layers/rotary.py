"""Tables of cosines and sines for rotary embeddings, in every scaling that checkpoints ask for.

Everything is computed in float32 and in the order of operations of transformers: at a position of
10^5 one last bit of a frequency already turns a head by a hundredth of a radian.

Source: transformers ``modeling_rope_utils``; YaRN, arXiv 2309.00071; LongRoPE, arXiv 2402.13753.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tupelo.checkpoint import RopeConfig


class RotaryTable:
    """The cosines and sines of one kind of rope, shared by the layers that use it.

    Args:
        rope: the kind.
        max_length: positions that will ever be asked for. Where the frequencies depend on the
            length of the sequence (dynamic, longrope), this length decides them for every request:
            K is stored rotated, so frequencies that changed as a sequence grows would make its
            cached part wrong, and an answer would depend on what the cache holds.
    """

    def __init__(self, rope: RopeConfig, max_length: int) -> None:
        self.rope = rope
        self.max_length = max_length
        self._cos_sin: Tensor | None = None

    def num_bytes(self) -> int:
        """Bytes of the table."""
        return self.max_length * self.rope.rotary_dim * torch.float32.itemsize

    def cos_sin(self, device: torch.device) -> Tensor:
        """(max_length, rotary_dim) float32: cosines, then sines. Built on first use, then kept."""
        if self._cos_sin is None:
            table = build_cos_sin(self.rope, self.max_length)
            self._cos_sin = table.to(device)
        return self._cos_sin


def build_cos_sin(rope: RopeConfig, max_length: int) -> Tensor:
    """(max_length, rotary_dim) float32 for positions ``0 … max_length - 1``, on the CPU."""
    frequencies = inverse_frequencies(rope, max_length)
    half = len(frequencies)
    table = torch.empty((max_length, 2 * half), dtype=torch.float32)
    positions = torch.arange(max_length, dtype=torch.float32)
    angles = positions.unsqueeze(1) * frequencies
    torch.cos(angles, out=table[:, :half])
    torch.sin(angles, out=table[:, half:])
    return table if rope.attention_factor == 1.0 else table.mul_(rope.attention_factor)


def inverse_frequencies(rope: RopeConfig, max_length: int) -> Tensor:
    """(rotary_dim / 2,) float32: radians per position of each pair of elements."""
    return _KINDS[rope.kind](rope, max_length)


def _powers(rope: RopeConfig, theta: float) -> Tensor:
    """``theta ** (2 i / rotary_dim)``."""
    return theta ** (torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim)


def _default(rope: RopeConfig, _: int) -> Tensor:
    return 1.0 / _powers(rope, rope.theta)


def _none(rope: RopeConfig, _: int) -> Tensor:
    return torch.zeros(rope.rotary_dim // 2)


def _linear(rope: RopeConfig, _: int) -> Tensor:
    return 1.0 / _powers(rope, rope.theta) / rope.factor


def _dynamic(rope: RopeConfig, max_length: int) -> Tensor:
    trained, dim = rope.max_position_embeddings, rope.rotary_dim
    length = max(max_length, trained)
    stretch = (rope.factor * length / trained) - (rope.factor - 1)
    return 1.0 / _powers(rope, rope.theta * stretch ** (dim / (dim - 2)))


def _llama3(rope: RopeConfig, _: int) -> Tensor:
    """Long wavelengths divided by ``factor``, short ones kept, a linear blend in between."""
    plain = 1.0 / _powers(rope, rope.theta)
    trained = rope.original_max_position_embeddings
    low, high = rope.low_freq_factor, rope.high_freq_factor
    wavelength = 2 * math.pi / plain
    if low == high:  # nothing is in between, as in Llama 4 Scout
        return torch.where(wavelength < trained / high, plain, plain / rope.factor)
    blend = (trained / wavelength - low) / (high - low)
    middle = (1 - blend) * plain / rope.factor + blend * plain
    stretched = torch.where(wavelength > trained / low, plain / rope.factor, middle)
    return torch.where(wavelength < trained / high, plain, stretched)


def _yarn(rope: RopeConfig, _: int) -> Tensor:
    """A ramp over the dimensions, from frequencies kept to frequencies divided by ``factor``."""
    dim, trained = rope.rotary_dim, rope.original_max_position_embeddings

    def dimension_turning(times: float) -> float:
        return dim * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension_turning(rope.beta_fast), dimension_turning(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # as upstream: a step instead of a division by 0
    powers = _powers(rope, rope.theta)
    steps = torch.arange(dim // 2, dtype=torch.float32)
    keep = 1 - torch.clamp((steps - low) / (high - low), 0, 1)
    return 1.0 / (rope.factor * powers) * (1 - keep) + 1.0 / powers * keep


def _longrope(rope: RopeConfig, max_length: int) -> Tensor:
    beyond = max_length > rope.original_max_position_embeddings
    factors = torch.tensor(rope.long_factor if beyond else rope.short_factor, dtype=torch.float32)
    return 1.0 / (factors * _powers(rope, rope.theta))


_KINDS: dict[str, Callable[[RopeConfig, int], Tensor]] = {
    "none": _none,
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
