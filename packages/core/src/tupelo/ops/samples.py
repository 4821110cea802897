"""What the sample inputs of all ops share: seeded draws, views, and the numbers that are hard.

Samples are made on the host in float32; the conformance kit casts and moves them, keeping strides.
Every op has: ``typical``, ``one_row``, ``odd`` (sizes that no vector width divides), ``empty`` (no
rows), ``strided`` (a view with gaps between its rows) and ``large`` (values of 1e4), and where it
sums, ``long``: a sum that an accumulator of half precision gets visibly wrong.
"""

import zlib

import torch
from torch import Tensor

LARGE = 1e4
"""Below float16's largest number, 65504, with room for a factor of 4; its square is above."""

LONG = 8192
"""Terms of a long sum: of numbers near 0.5 it reaches 4096, where float16's spacing is 2 to 4 and
bfloat16's 16 to 32, so that an accumulator of that precision is off by far more than a rounding."""

VIEW_GAP = 8
"""Elements between the rows of a strided view: keeps rows aligned to 16 bytes in 16-bit types."""


class Draw:
    """Seeded random tensors; the same name gives the same numbers everywhere.

    Args:
        name: of what is drawn for, such as ``"linear"``.
    """

    def __init__(self, name: str) -> None:
        self._generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape: int, size: float = 1.0) -> Tensor:
        """Normal numbers of standard deviation ``size``."""
        return torch.randn(shape, generator=self._generator) * size

    def uniform(self, *shape: int, low: float, high: float) -> Tensor:
        """Uniform numbers in ``[low, high)``."""
        return torch.rand(shape, generator=self._generator) * (high - low) + low

    def integers(self, *shape: int, high: int) -> Tensor:
        """Uniform int64 in ``[0, high)``."""
        return torch.randint(high, shape, generator=self._generator)

    def order(self, count: int) -> Tensor:
        """A permutation of ``0 … count - 1``."""
        return torch.randperm(count, generator=self._generator)

    def weight(self, size: int) -> Tensor:
        """A norm's weight: (size,), around 1."""
        return 1.0 + self.normal(size, size=0.2)


def view_of(x: Tensor) -> Tensor:
    """The same values as a view: with gaps after each row, or among more heads in three axes."""
    if x.dim() == 3:
        wide = torch.zeros(x.shape[0], x.shape[1] + 2, x.shape[2], dtype=x.dtype)
        view = wide[:, 1:-1]
    else:
        wide = torch.zeros(*x.shape[:-1], x.shape[-1] + VIEW_GAP, dtype=x.dtype)
        view = wide[..., : x.shape[-1]]
    view.copy_(x)
    return view
