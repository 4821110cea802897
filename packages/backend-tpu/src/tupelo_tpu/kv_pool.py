"""K/V storage that is never written in place: programs take it, and give its successor back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tupelo.backend import Ticket, TorchKVPool
from tupelo.specs import KVSpec
from tupelo_tpu.buckets import ladder

SMALLEST_COPY = 8


class XlaKVPool(TorchKVPool):
    """Two tensors a layer, each (num_pages + 1, page_size, num_kv_heads * head_dim).

    Heads lie side by side on the last axis, which a TPU stores in tiles of 128: the K/V of one head
    of a page are whole tiles where ``head_dim`` is a multiple of that. Copies move pages in powers
    of two, so that few programs serve them.
    """

    def page_shape(self, spec: KVSpec) -> tuple[int, ...]:
        return self.page_size, spec.num_kv_heads * spec.head_dim

    def state(self) -> list[Tensor]:
        """Everything stored, in a fixed order."""
        return [t for layer in sorted(self._layers) for t in self._stored(layer)]

    def take(self, state: Sequence[Tensor]) -> None:
        """The successors of ``state``, in its order."""
        rest = list(state)
        for layer in sorted(self._layers):
            new = [rest.pop(0) for _ in self._stored(layer)]
            self.replace(layer, (new[0], new[-1]))

    def copy_out(
        self, pages: Sequence[int], host_pages: Sequence[int], layers: Sequence[int]
    ) -> Ticket[None]:
        return super().copy_out(_filled(pages), _filled(host_pages), layers)

    def copy_in(
        self, host_pages: Sequence[int], pages: Sequence[int], layers: Sequence[int]
    ) -> Ticket[None]:
        return super().copy_in(_filled(host_pages), _filled(pages), layers)


def _filled(pages: Sequence[int]) -> Any:
    """The last page again and again, up to a power of two: copied once more, it is the same."""
    if not len(pages):
        return pages
    size = ladder(SMALLEST_COPY, len(pages))[-1]
    return np.pad(np.asarray(pages, np.int64), (0, size - len(pages)), mode="edge")
