"""K/V storage on the device: opaque to core, which knows page numbers only."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend.runtime import Done, Mapped, Runtime, Ticket
from tupelo.errors import ConfigError
from tupelo.specs import KVSpec

Buffers = tuple[Tensor, Tensor]


@runtime_checkable
class KVPool(Protocol):
    """The pages of every group, and copies between them and an arena on the host.

    Built as ``kv_pool(specs, num_pages, page_size, runtime)``: the groups, the pages of each
    group, the tokens of a page, the device. Page ids that core hands out are ``0 … num_pages[g] -
    1``.
    """

    page_size: int

    def buffers(self, layer: int) -> Buffers:
        """K and V storage of one model layer, in the pool's own layout. Where ``KVSpec.value_dim``
        is set, V is a view of the first elements of K."""
        ...

    def replace(self, layer: int, buffers: Buffers) -> None:
        """Make ``buffers`` the layer's storage: how a functional backend stores what it wrote."""
        ...

    def num_bytes(self) -> int:
        """Bytes that the pool takes on the device."""
        ...

    def copy_out(
        self, pages: Sequence[int], host_pages: Sequence[int], layers: Sequence[int]
    ) -> Ticket[None]:
        """Copy device pages of some layers (of one group) into pages of the host arena."""
        ...

    def copy_in(
        self, host_pages: Sequence[int], pages: Sequence[int], layers: Sequence[int]
    ) -> Ticket[None]:
        """The reverse of ``copy_out``."""
        ...

    def arena(self, num_host_pages: int) -> npt.NDArray[Any]:
        """Make room for host pages, and return the arena's bytes as
        (num_host_pages, num_layers, 2, page_bytes) uint8: K before V, a page's bytes being
        (page_size, num_kv_heads, head_dim) in row-major order, the neutral layout."""
        ...


class TorchKVPool(KVPool):
    """Two tensors a layer, each (num_pages + 1, page_size, num_kv_heads, head_dim); one where
    values are part of the keys.

    The last page is scratch: padding tokens are stored there, so that no kernel needs a branch.
    """

    def __init__(
        self, specs: Sequence[KVSpec], num_pages: Sequence[int], page_size: int, runtime: Runtime
    ) -> None:
        if len(specs) != len(num_pages):
            raise ConfigError(f"{len(specs)} page groups, but pages given for {len(num_pages)}")
        self.page_size = page_size
        self._layers: dict[int, Buffers] = {}
        self._specs: dict[int, KVSpec] = {}
        for spec, pages in zip(specs, num_pages, strict=True):
            shape = (pages + 1, *self.page_shape(spec))
            dtype = getattr(torch, spec.dtype)
            for layer in spec.layers:
                k = runtime.zeros(shape, dtype)
                v = runtime.zeros(shape, dtype) if spec.value_dim is None else k
                self._specs[layer] = spec
                self.replace(layer, (k, v))
        self._runtime = runtime
        self._row = {layer: i for i, layer in enumerate(sorted(self._layers))}
        self._arena: npt.NDArray[Any] = np.empty((0, 0, 2, 0), np.uint8)

    def page_shape(self, spec: KVSpec) -> tuple[int, ...]:
        """Of K or V of a page: tokens first, then heads and their elements in row-major order, the
        same bytes on whatever axes suit the device."""
        return self.page_size, spec.num_kv_heads, spec.head_dim

    def buffers(self, layer: int) -> Buffers:
        return self._layers[layer]

    def replace(self, layer: int, buffers: Buffers) -> None:
        value_dim = self._specs[layer].value_dim
        k, v = buffers
        self._layers[layer] = (k, v if value_dim is None else k[..., :value_dim])

    def num_bytes(self) -> int:
        return sum(t.nbytes for layer in self._layers for t in self._stored(layer))

    def _stored(self, layer: int) -> Buffers | tuple[Tensor]:
        """What a layer stores: K and V, or K alone."""
        k, v = self._layers[layer]
        return (k, v) if self._specs[layer].value_dim is None else (k,)

    def arena(self, num_host_pages: int) -> npt.NDArray[Any]:
        k, _ = next(iter(self._layers.values()))
        page_bytes = max(k.nbytes // k.shape[0] for k, _ in self._layers.values())
        assert k.shape[1] == self.page_size
        shape = (num_host_pages, len(self._layers), 2, page_bytes)
        self._arena = self._runtime.host_array(shape, np.uint8)
        return self._arena

    def copy_out(
        self, pages: Sequence[int], host_pages: Sequence[int], layers: Sequence[int]
    ) -> Ticket[None]:
        source = self._runtime.to_device(np.asarray(pages, np.int64))
        parts = [(layer, kv) for layer in layers for kv in range(len(self._stored(layer)))]
        tensors = [self._stored(layer)[kv][source].contiguous() for layer, kv in parts]
        arrived = self._runtime.to_host([t.view(torch.uint8).flatten(1) for t in tensors])
        target = np.asarray(host_pages, np.int64)

        def store(arrays: list[npt.NDArray[Any]]) -> None:
            for data, (layer, kv) in zip(arrays, parts, strict=True):
                self._arena[target, self._row[layer], kv, : data.shape[1]] = data

        return Mapped(arrived, store)

    def copy_in(
        self, host_pages: Sequence[int], pages: Sequence[int], layers: Sequence[int]
    ) -> Ticket[None]:
        if not len(pages):  # numpy gives an empty copy strides that torch can't view
            return Done(None)
        target = self._runtime.to_device(np.asarray(pages, np.int64))
        source = np.asarray(host_pages, np.int64)
        for layer in layers:
            moved = []
            for kv, old in enumerate(self._stored(layer)):
                page_bytes = old.nbytes // old.shape[0]
                data = np.ascontiguousarray(self._arena[source, self._row[layer], kv, :page_bytes])
                new = self._runtime.to_device(data).view(old.dtype).view(-1, *old.shape[1:])
                moved.append(old.index_copy(0, target, new))
            self.replace(layer, (moved[0], moved[-1]))
        done = self._runtime.to_host([])
        return Mapped(done, lambda _: None)
