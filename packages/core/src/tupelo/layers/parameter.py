"""Parameters: one tensor on this rank, and how checkpoint tensors are placed into it.

A parameter carries its own loader: it lists the checkpoint tensors that it is filled from, which
part of each this rank holds, and where that part goes, so that q, k and v may arrive in any order
and land in one fused tensor. Nothing is allocated until the first part is placed.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tupelo.specs import dtype_bytes

Slices = tuple[slice, ...]
Place = tuple[slice | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One checkpoint tensor, or this rank's part of it, within a parameter.

    Attributes:
        name: Hugging Face's name of the tensor.
        shape: of the whole tensor in the checkpoint.
        take: the part that this rank holds.
        place: where that part goes in the parameter; an integer picks one entry of an axis that
            the checkpoint tensor does not have (an expert).
        offset: added to the values in float32 (norms that are stored as ``weight - 1``).
        paired: None, or (head_dim, start, rotary_dim): of each ``head_dim`` rows, those from
            ``start`` on that are rotated are stored with the pairs that turn together side by
            side, and are placed half of ``rotary_dim`` apart.
        transposed: the last two axes are stored the other way round: ``shape`` is as stored,
            ``take`` counts in the order of the parameter.
    """

    name: str
    shape: tuple[int, ...]
    take: Slices
    place: Place
    offset: float = 0.0
    paired: tuple[int, int, int] | None = None
    transposed: bool = False


@dataclass(eq=False, kw_only=True, slots=True)
class Parameter:
    """One tensor of a layer on this rank.

    Attributes:
        shape: on this rank.
        sources: what fills it. Elements that no source covers stay 0.
        fused: the sources in another published form of the same checkpoint; they change places with
            ``sources`` where a checkpoint has that form. Empty for none.
        dtype: where it is not the model's: the name of its type.
        tensor: None until allocated, and again once a packed form has taken its place.
    """

    shape: tuple[int, ...]
    sources: tuple[Source, ...]
    fused: tuple[Source, ...] = ()
    dtype: str | None = None
    tensor: Tensor | None = None

    @property
    def data(self) -> Tensor:
        """The loaded tensor."""
        assert self.tensor is not None, f"{self.sources[0].name} is not loaded, or was packed away"
        return self.tensor

    def choose_form(self, names: Collection[str]) -> None:
        """Settle on one published form, by the ``names`` of the tensors that a checkpoint has."""
        absent = all(source.name not in names for source in self.sources)
        if self.fused and absent and all(source.name in names for source in self.fused):
            self.sources, self.fused = self.fused, self.sources

    def drop_prefix(self, prefix: str) -> None:
        """Read tensors whose published names lack ``prefix``."""
        self.sources = tuple(
            replace(source, name=source.name.removeprefix(prefix)) for source in self.sources
        )

    def num_bytes(self, dtype: str) -> int:
        """Bytes on this rank in a model of type ``dtype``."""
        return math.prod(self.shape) * dtype_bytes(self.dtype or dtype)

    def allocate(self, dtype: str, device: torch.device) -> Tensor:
        """The tensor, made now unless it exists; zero where sources leave gaps."""
        if self.tensor is None:
            covered = sum(math.prod(_lengths(s.place, self.shape)) for s in self.sources)
            make = torch.empty if covered == math.prod(self.shape) else torch.zeros
            kind = getattr(torch, self.dtype or dtype)
            self.tensor = make(self.shape, dtype=kind, device=device)
        return self.tensor


def whole(
    name: str, shape: tuple[int, ...], *, offset: float = 0.0, dtype: str | None = None
) -> Parameter:
    """A parameter that is one checkpoint tensor, held entirely by every rank."""
    everything = tuple(slice(0, n) for n in shape)
    source = Source(name=name, shape=shape, take=everything, place=everything, offset=offset)
    return Parameter(shape=shape, sources=(source,), dtype=dtype)


def _lengths(place: Place, shape: tuple[int, ...]) -> list[int]:
    return [
        1 if isinstance(part, int) else len(range(*part.indices(n)))
        for part, n in zip(place, shape, strict=True)
    ]
