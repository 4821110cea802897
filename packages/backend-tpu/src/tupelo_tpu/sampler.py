"""Sampling on the device over tables of fixed sizes, none of which is written in place."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import Runtime, TorchSampler
from tupelo.backend.sampler import MAX_SLOT_BIAS
from tupelo.batch import Admission
from tupelo.ops import OpTable
from tupelo_tpu.buckets import at_least
from tupelo_tpu.programs import Programs

BIAS_WIDTHS = (64, MAX_SLOT_BIAS)
"""Biases of a slot that a program reads: most requests have few."""


class XlaSampler(TorchSampler):
    """``TorchSampler`` whose tables are all made at the start, at their full sizes.

    Attributes:
        width: biases of a slot that a step reads, one of ``BIAS_WIDTHS``.
    """

    def __init__(self, num_slots: int, vocab_size: int, ops: OpTable, runtime: Runtime) -> None:
        super().__init__(num_slots, vocab_size, ops, runtime)
        rows = num_slots + 1
        self._programs = Programs()
        self.width = BIAS_WIDTHS[0]
        self._floats, self._longs = self._floats.clone(), self._longs.clone()
        self._bias_ids = runtime.zeros((rows, MAX_SLOT_BIAS), torch.int64)
        self._bias = runtime.zeros((rows, MAX_SLOT_BIAS), torch.float32)
        self._bias_until = runtime.zeros((rows, MAX_SLOT_BIAS), torch.int64)
        self._counts: Tensor = runtime.zeros((rows, vocab_size), torch.int32)
        self._in_prompt: Tensor = runtime.zeros((rows, vocab_size), torch.bool)
        runtime.synchronize()

    def tables(self) -> list[Tensor]:
        """What ``sample`` reads, apart from ``counts``."""
        biases = (self._bias_ids, self._bias, self._bias_until)
        return [self._floats, self._longs, *biases, self._in_prompt]

    @property
    def counts(self) -> Tensor:
        """(num_slots + 1, vocab_size) int32: how often each slot generated each token."""
        return self._counts

    @counts.setter
    def counts(self, counts: Tensor) -> None:
        self._counts = counts

    def _admit_bias(self, admission: Admission) -> None:
        super()._admit_bias(admission)
        self.width = at_least(BIAS_WIDTHS, int(self._num_biases.max()))

    def _put(
        self, slot: int, tables: Sequence[Tensor], rows: Sequence[np.ndarray]
    ) -> Sequence[Tensor]:
        sent = [self._runtime.to_device(np.array([slot], np.int64))]
        sent += [self._runtime.to_device(row[None]) for row in rows]
        count = len(tables)

        def put(at: Tensor, *args: Tensor) -> list[Tensor]:
            pairs = zip(args[count:], args[:count], strict=True)
            return [table.index_copy(0, at, row) for table, row in pairs]

        key = tuple((table.dtype, table.shape) for table in tables)
        donated = range(1 + count, 1 + 2 * count)
        return self._programs.run(key, put, [*sent, *tables], donated)

    def _count(self, slots: Tensor, ids: Tensor) -> None:
        once = torch.ones_like(ids, dtype=torch.int32)
        self._counts = self._counts.index_put((slots, ids), once, accumulate=True)

    def _biases(self, slots: Tensor) -> Sequence[Tensor]:
        return [table[:, : self.width] for table in super()._biases(slots)]
