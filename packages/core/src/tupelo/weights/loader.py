"""Checkpoint tensors into a model's parameters, one at a time.

A tensor is mapped, converted, placed and let go; nothing but the parameters themselves and one
bounded piece is ever in memory.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm

from tupelo.checkpoint import Checkpoint, HostTensor
from tupelo.errors import CheckpointError
from tupelo.layers import Parameter, Source
from tupelo.models import Model
from tupelo.weights.convert import place

_SHOWN = 8

Places = dict[str, list[tuple[Parameter, Source]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What was loaded.

    Attributes:
        num_tensors: checkpoint tensors that were read.
        read_bytes: their bytes on disk.
        weight_bytes: bytes of the parameters on this rank, before packing.
        ignored: checkpoint tensors that the model has no use for.
        seconds: wall time.
    """

    num_tensors: int
    read_bytes: int
    weight_bytes: int
    ignored: tuple[str, ...]
    seconds: float


def load_weights(
    model: Model, checkpoint: Checkpoint, *, device: torch.device | str, progress: bool = True
) -> LoadReport:
    """Fill every parameter of ``model`` from ``checkpoint``, in the model's dtype.

    Names and shapes are checked before a byte is read.

    Args:
        model: as built; its parameters are allocated here.
        device: where the parameters live.
        progress: show a bar of bytes read.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape; they are named.
        UnsupportedModel: a tensor of a type that cannot be read.
    """
    began = time.perf_counter()
    ignored = check_weights(model, checkpoint)
    places = parameter_places(model)
    infos = checkpoint.tensors
    total = sum(infos[name].num_bytes for name in places)
    bar = tqdm(total=total, unit="B", unit_scale=True, desc="Loading weights", disable=not progress)

    def tensors() -> Iterator[tuple[str, HostTensor]]:
        for name, tensor in checkpoint.iter_tensors(places):
            yield name, tensor
            bar.update(infos[name].num_bytes)

    with bar:
        fill(model, tensors(), device)
    return LoadReport(
        num_tensors=len(places),
        read_bytes=total,
        weight_bytes=sum(p.num_bytes(model.options.dtype) for p in model.parameters()),
        ignored=ignored,
        seconds=time.perf_counter() - began,
    )


def fill(
    model: Model, tensors: Iterable[tuple[str, HostTensor]], device: torch.device | str
) -> None:
    """Place ``tensors``, whose names and shapes are known to be right, allocating as they come."""
    places, where = parameter_places(model), torch.device(device)
    for name, tensor in tensors:
        for parameter, source in places[name]:
            target = parameter.allocate(model.options.dtype, where)
            place(tensor, source, target[source.place])


def parameter_places(model: Model) -> Places:
    """Checkpoint name, to every parameter that it fills."""
    places: Places = {}
    for parameter in model.parameters():
        for source in parameter.sources:
            places.setdefault(source.name, []).append((parameter, source))
    return places


def check_weights(model: Model, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Settle on the checkpoint's published form, and check names and shapes; returns the tensors
    that are left out on purpose.

    A tied model may be saved with a copy of its head, one that pools with a head to generate, and
    some with tables that nothing reads.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape; they are named.
    """
    infos = checkpoint.tensors
    layout = model.config.layout
    bare = not any(name.startswith(layout.prefix) for name in infos)
    for parameter in model.parameters():
        parameter.choose_form(infos)
        if bare:
            parameter.drop_prefix(layout.prefix)
    places = parameter_places(model)
    missing = [name for name in places if name not in infos]
    if missing:
        raise CheckpointError(f"{checkpoint.path} lacks {_listed(missing)}")
    ignored = [name for name in infos if name not in places]
    copies = (f"{layout.head}.weight",) if model.config.tie_word_embeddings else ()
    pooling = model.config.pooling
    roots = (*layout.beside, *(() if pooling is None else pooling.unused))
    unknown = [
        name
        for name in ignored
        if name not in copies and not name.endswith(layout.unused) and not name.startswith(roots)
    ]
    if unknown:
        raise CheckpointError(
            f"{checkpoint.path} has {_listed(unknown)}, which {model.config.architecture} with "
            "this configuration does not use; its config.json does not fit its weights"
        )
    for name, uses in places.items():
        want = uses[0][1].shape
        got = infos[name].shape
        if got != want:
            raise CheckpointError(
                f"{checkpoint.path}: {name} has shape {list(got)} "
                f"({math.prod(got)} elements); its configuration says {list(want)}"
            )
    return tuple(ignored)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}: {shown}{more}"
