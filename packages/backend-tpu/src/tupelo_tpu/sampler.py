"""Sampling on the device over tables of fixed sizes, none of which is written in place."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import Runtime, Sampled, TorchSampler, uniform
from tupelo.backend.sampler import MAX_SLOT_BIAS
from tupelo.batch import Admission, Batch
from tupelo.ops import OpTable
from tupelo.ops.sampling import NEGATIVE
from tupelo_tpu.buckets import at_least
from tupelo_tpu.programs import Programs

BIAS_WIDTHS = (64, MAX_SLOT_BIAS)
"""Biases of a slot that a program reads: most requests have few."""

_FOREVER = 2**62


class XlaSampler(TorchSampler):
    """``TorchSampler`` whose tables are all made at the start, at their full sizes."""

    def __init__(self, num_slots: int, vocab_size: int, ops: OpTable, runtime: Runtime) -> None:
        super().__init__(num_slots, vocab_size, ops, runtime)
        rows = num_slots + 1
        self._programs = Programs()
        self._width = BIAS_WIDTHS[0]
        self._widths = np.zeros(rows, np.int64)
        self._floats, self._longs = self._floats.clone(), self._longs.clone()
        self._bias_ids = runtime.zeros((rows, MAX_SLOT_BIAS), torch.int64)
        self._bias = runtime.zeros((rows, MAX_SLOT_BIAS), torch.float32)
        self._bias_until = runtime.zeros((rows, MAX_SLOT_BIAS), torch.int64)
        self._counts: Tensor = runtime.zeros((rows, vocab_size), torch.int32)
        self._in_prompt: Tensor = runtime.zeros((rows, vocab_size), torch.bool)
        runtime.synchronize()

    def prepare(self, batch: Batch) -> int:
        """Decide how many biases of a slot the step reads; returns it, for the program's key."""
        slots = batch.slots[batch.sample_rows]
        self._width = at_least(BIAS_WIDTHS, int(self._widths[slots].max(initial=0)))
        return self._width

    def force_width(self, width: int) -> None:
        """Read this many biases of the scratch slot: for warming up."""
        self._widths[-1] = width

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

    def admit(self, admission: Admission) -> None:
        p, slot = admission.params, admission.slot
        penalties = (p.frequency_penalty, p.presence_penalty, p.repetition_penalty)
        floats = (0.0 if p.greedy else p.temperature, p.top_p, p.min_p, *penalties)
        numbers = np.array(floats, np.float32), np.array((admission.seed, p.top_k), np.int64)
        self._floats, self._longs = self._put_rows(slot, (self._floats, self._longs), numbers)
        self._admit_bias(admission)
        if p.penalised:
            ids, start = admission.input_ids, admission.num_prompt_tokens
            size = self._vocab_size
            rows = np.bincount(ids[start:], minlength=size).astype(np.int32), np.zeros(size, bool)
            rows[1][ids[:start]] = True
            old = self._counts, self._in_prompt
            self._counts, self._in_prompt = self._put_rows(slot, old, rows)

    def sample(
        self, logits: Tensor, slots: Tensor, positions: Tensor, batch: Batch, mask: Tensor | None
    ) -> Sampled:
        self.prepare(batch)
        return super().sample(logits, slots, positions, batch, mask)

    def _admit_bias(self, admission: Admission) -> None:
        p, slot = admission.params, admission.slot
        entries = [(token, bias, _FOREVER) for token, bias in p.logit_bias]
        if p.min_new_tokens:
            until = admission.num_prompt_tokens + p.min_new_tokens
            entries += [(token, NEGATIVE, until) for token in admission.stop_ids]
        before, self._widths[slot] = self._widths[slot], len(entries)
        if not entries and not before:
            return
        rows = [np.zeros(MAX_SLOT_BIAS, dtype) for dtype in (np.int64, np.float32, np.int64)]
        for row, values in zip(rows, zip(*entries, strict=True), strict=False):
            row[: len(entries)] = values
        old = (self._bias_ids, self._bias, self._bias_until)
        self._bias_ids, self._bias, self._bias_until = self._put_rows(slot, old, rows)

    def _put_rows(
        self, slot: int, tables: Sequence[Tensor], rows: Sequence[npt.NDArray[np.generic]]
    ) -> list[Tensor]:
        """The tables with one row of each replaced."""
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

    def _uniform(self, seeds: Tensor, positions: Tensor) -> Tensor:
        return uniform(seeds, positions, _shift)

    def _add_bias(self, logits: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        until, bias, ids = (
            table[slots][:, : self._width]
            for table in (self._bias_until, self._bias, self._bias_ids)
        )
        live = positions.unsqueeze(1) < until
        return logits.scatter_add(1, ids, torch.where(live, bias, torch.zeros_like(bias)))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64: torch-xla's ``>>`` divides, so the sign is moved apart."""
    sign = torch.where(x < 0, 1 << (63 - bits), 0)
    return ((x & ((1 << 63) - 1)) >> bits) | sign
