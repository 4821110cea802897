"""Choosing tokens on the device: the vendor-facing protocol and the torch default.

Randomness is a function of (seed, position): nothing is carried from step to step, so pipelining,
retraction and ranks cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tupelo.backend.runtime import Runtime
from tupelo.batch import Admission, Batch, Feature
from tupelo.ops.sampling import NEGATIVE
from tupelo.ops.spec import OpCall
from tupelo.ops.table import OpTable

MAX_SLOT_BIAS = 2048
"""Logit biases and suppressed stop ids that one slot can hold."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a sampler returns, on the device; S sampling rows, k alternatives.

    Attributes:
        token_ids: (S,) int64.
        logprobs: (S,) float32, of the model's own distribution (before bias, penalties,
            temperature).
        top_ids, top_logprobs: (S, k).
    """

    token_ids: Tensor
    logprobs: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None


@runtime_checkable
class Sampler(Protocol):
    """Sampling state of all slots, and the choice of tokens.

    Built as ``sampler(num_slots, vocab_size, ops, runtime)``.
    """

    def admit(self, admission: Admission) -> None:
        """Write a request's parameters into its slot, and count its tokens if it is penalised."""
        ...

    def sample(
        self, logits: Tensor, slots: Tensor, positions: Tensor, batch: Batch, mask: Tensor | None
    ) -> Sampled:
        """Choose a token for each row, and count it.

        Args:
            logits: (S, vocab_size) in the model's dtype, unchanged by this call. Rows past
                ``batch.num_samples`` are padding.
            slots: (S,) int64; the scratch slot for padding.
            positions: (S,) int64, the position that the sampled token will have.
            batch: for its features and counts.
            mask: (S, ceil(vocab_size / 32)) int32 bitmask of allowed tokens, or None.
        """
        ...


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """One number in [0, 1) for each (seed, position).

    Args:
        seeds, positions: (n,) int64.

    Returns:
        (n,) float32 with 24 random bits. Source of the mixing constants: Steele et al.,
        "SplitMix", 2014.
    """
    x = seeds + positions * -7046029254386353131
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    x = x ^ _shift(x, 31)
    return _shift(x, 40).to(torch.float32) * (1.0 / (1 << 24))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64. By its name, since some devices divide for ``>>``."""
    return torch.bitwise_right_shift(x, bits) & ((1 << (64 - bits)) - 1)


class TorchSampler(Sampler):
    """The default: torch ops over per-slot tables; tables of vocabulary width are made on first
    need."""

    def __init__(self, num_slots: int, vocab_size: int, ops: OpTable, runtime: Runtime) -> None:
        rows = num_slots + 1  # the last one is scratch, for padding
        device = runtime.device
        self._runtime = runtime
        self._vocab_size = vocab_size
        self._filter = ops.bind(
            OpCall(op="sample_top_k_top_p", dtype="float32", shape=(vocab_size,))
        )
        self._mask = ops.bind(
            OpCall(op="apply_token_bitmask", dtype="float32", shape=(vocab_size,))
        )
        self._floats = torch.zeros((rows, 6), dtype=torch.float32, device=device)
        self._floats[:, _TOP_P] = 1.0
        self._floats[:, _REPETITION] = 1.0
        self._longs = torch.zeros((rows, 2), dtype=torch.int64, device=device)
        self._bias_ids = torch.zeros((rows, 0), dtype=torch.int64, device=device)
        self._bias = torch.zeros((rows, 0), dtype=torch.float32, device=device)
        self._bias_until = torch.zeros((rows, 0), dtype=torch.int64, device=device)
        self._num_biases = np.zeros(rows, np.int64)
        self._counts: Tensor | None = None
        self._in_prompt: Tensor | None = None

    def admit(self, admission: Admission) -> None:
        p, slot = admission.params, admission.slot
        temperature = 0.0 if p.greedy else p.temperature
        floats = (temperature, p.top_p, p.min_p, p.frequency_penalty, p.presence_penalty)
        numbers = (*floats, p.repetition_penalty), (admission.seed, p.top_k)
        rows = np.array(numbers[0], np.float32), np.array(numbers[1], np.int64)
        self._floats, self._longs = self._put(slot, (self._floats, self._longs), rows)
        self._admit_bias(admission)
        if p.penalised:
            self._admit_counts(admission)

    def sample(
        self, logits: Tensor, slots: Tensor, positions: Tensor, batch: Batch, mask: Tensor | None
    ) -> Sampled:
        features = batch.features
        shaped = logits
        if Feature.BIAS in features:
            shaped = self._add_bias(shaped.float(), slots, positions)
        if Feature.PENALTIES in features:
            shaped = self._penalise(shaped.float(), slots)
        if mask is not None:
            shaped = self._mask(shaped.float(), mask)
        ids = torch.argmax(shaped, dim=-1)
        if Feature.SAMPLING in features:
            ids = self._draw(shaped.float(), ids, slots, positions)
        if Feature.PENALTIES in features and self._counts is not None:
            self._count(slots, ids)
        if Feature.LOGPROBS not in features:
            return Sampled(ids)
        return score(logits, ids, batch.top_logprobs)

    def _count(self, slots: Tensor, ids: Tensor) -> None:
        """Count a token in each slot; a slot that is there twice, as the scratch one, counts
        both."""
        assert self._counts is not None
        self._counts.index_put_((slots, ids), torch.ones_like(ids, dtype=torch.int32), True)

    def _put(
        self, slot: int, tables: Sequence[Tensor], rows: Sequence[np.ndarray]
    ) -> Sequence[Tensor]:
        """The tables with the slot's row of each replaced: these, or successors."""
        for table, row in zip(tables, rows, strict=True):
            table[slot] = self._runtime.to_device(row)
        return tables

    def _admit_bias(self, admission: Admission) -> None:
        """Biases hold for ever; suppressed stop ids until ``min_new_tokens`` are there."""
        p, slot = admission.params, admission.slot
        first_free = admission.num_prompt_tokens + p.min_new_tokens
        entries = [(token, bias, 2**62) for token, bias in p.logit_bias]
        if p.min_new_tokens:
            entries += [(token, NEGATIVE, first_free) for token in admission.stop_ids]
        assert len(entries) <= MAX_SLOT_BIAS
        before, self._num_biases[slot] = self._num_biases[slot], len(entries)
        if not entries and not before:
            return
        missing = len(entries) - self._bias_ids.shape[1]
        if missing > 0:
            pad = (0, missing)
            self._bias_ids = torch.nn.functional.pad(self._bias_ids, pad)
            self._bias = torch.nn.functional.pad(self._bias, pad)
            self._bias_until = torch.nn.functional.pad(self._bias_until, pad)
        width = self._bias_ids.shape[1]
        rows = [np.zeros(width, dtype) for dtype in (np.int64, np.float32, np.int64)]
        for row, values in zip(rows, zip(*entries, strict=True), strict=False):
            row[: len(entries)] = values
        tables = (self._bias_ids, self._bias, self._bias_until)
        self._bias_ids, self._bias, self._bias_until = self._put(slot, tables, rows)

    def _admit_counts(self, admission: Admission) -> None:
        shape = (self._floats.shape[0], self._vocab_size)
        if self._counts is None or self._in_prompt is None:
            self._counts = torch.zeros(shape, dtype=torch.int32, device=self._floats.device)
            self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=self._floats.device)
        ids, start = admission.input_ids, admission.num_prompt_tokens
        generated = np.bincount(ids[start:], minlength=self._vocab_size).astype(np.int32)
        prompt = np.bincount(ids[:start], minlength=self._vocab_size) > 0
        tables = (self._counts, self._in_prompt)
        self._counts, self._in_prompt = self._put(admission.slot, tables, (generated, prompt))

    def _biases(self, slots: Tensor) -> Sequence[Tensor]:
        """Ids, biases and where they end, (S, widest) each, 0 where a slot has fewer."""
        return self._bias_ids[slots], self._bias[slots], self._bias_until[slots]

    def _add_bias(self, logits: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        ids, bias, until = self._biases(slots)
        live = positions.unsqueeze(1) < until
        return logits.scatter_add(1, ids, torch.where(live, bias, 0.0))

    def _penalise(self, logits: Tensor, slots: Tensor) -> Tensor:
        """Repetition (Keskar et al., 2019: divide positive, multiply negative), then OpenAI's
        two."""
        assert self._counts is not None
        assert self._in_prompt is not None
        counts = self._counts[slots]
        generated = counts > 0
        row = self._floats[slots]
        repetition = row[:, _REPETITION, None]
        scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(generated | self._in_prompt[slots], scaled, logits)
        logits = logits - row[:, _FREQUENCY, None] * counts
        return logits - row[:, _PRESENCE, None] * generated

    def _draw(self, logits: Tensor, greedy_ids: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        row, longs = self._floats[slots], self._longs[slots]
        temperature = row[:, _TEMPERATURE]
        greedy = temperature == 0
        heat = torch.where(greedy, torch.ones_like(temperature), temperature)
        drawn = self._filter(
            logits / heat.unsqueeze(1),
            longs[:, _TOP_K],
            row[:, _TOP_P],
            row[:, _MIN_P],
            uniform(longs[:, _SEED], positions),
        )
        return torch.where(greedy, greedy_ids, drawn)


def score(logits: Tensor, ids: Tensor, num_top: int) -> Sampled:
    """Log-probabilities of ``ids`` (n,), and of the ``num_top`` best, under ``logits`` (n,
    vocab_size)."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, ids.unsqueeze(1)).squeeze(1)
    if not num_top:
        return Sampled(ids, chosen)
    top_logprobs, top_ids = logprobs.topk(num_top, dim=-1)
    return Sampled(ids, chosen, top_ids, top_logprobs)


_TEMPERATURE, _TOP_P, _MIN_P, _FREQUENCY, _PRESENCE, _REPETITION = range(6)
_SEED, _TOP_K = range(2)
