"""Pinned host arrays in a ring: an entry is written again only once the device has read it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import Runtime
from tupelo.backend.runtime import Event


@dataclass(slots=True)
class Entry:
    """One array of the ring, as numpy and as torch see it, and the event after its last copy."""

    array: npt.NDArray[Any]
    tensor: Tensor
    event: Event
    pending: bool = False

    def sent(self) -> None:
        """Everything that reads the entry has been submitted."""
        self.event.record()
        self.pending = True


class StagingRing:
    """Entries of ``num_bytes`` uint8.

    Args:
        size: entries; one more than the steps in flight, so that ``take`` never waits in practice.
    """

    def __init__(self, runtime: Runtime, num_bytes: int, size: int) -> None:
        self._entries: list[Entry] = []
        for _ in range(size):
            array = runtime.host_array((num_bytes,), np.uint8)
            self._entries.append(Entry(array, torch.from_numpy(array), runtime.event()))
        self._next = 0

    def take(self) -> Entry:
        """The next entry, once the device is done with it; call its ``sent`` after the copies."""
        entry = self._entries[self._next]
        self._next = (self._next + 1) % len(self._entries)
        if entry.pending:
            entry.event.synchronize()
            entry.pending = False
        return entry
