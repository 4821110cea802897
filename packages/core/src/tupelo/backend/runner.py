"""Running steps on the device: the vendor-facing protocol and the eager default.

The runner owns the slots' device state (last token, page tables; sampling state is the sampler's)
and the ring of staging buffers. A step is two launches, ``forward`` then ``sample``, so that the
host can finish the step before between them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.runtime import Mapped, Runtime, Ticket
from tupelo.backend.sampler import Sampled, Sampler, score
from tupelo.backend.step import StepInputs
from tupelo.batch import LAST_TOKEN, Batch, Bucket, Feature, StepResult

SCORE_SLICE = 256
"""Prompt positions whose logits exist at once while scoring: bounds memory at 256 x vocab_size
floats."""


class StepModel(Protocol):
    """What a runner needs of a model."""

    def forward(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        """Hidden states (num_tokens, hidden_size) after the last norm."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, vocab_size) for (n, hidden_size)."""
        ...

    def pool(self, features: Tensor, head: str) -> Tensor:
        """What the head makes of features (n, hidden_size), of any width: see ``PoolGroup``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerParts:
    """What a runner is built from.

    Attributes:
        num_slots: requests that can run at once. max_pages: longest page table. num_groups: page
            groups.
        depth: steps in flight, at most.
        max_tokens: prompt tokens of one step, at most; 0 where nobody has said. For warming up.
        generates: False for a model whose steps make vectors and never sample.
    """

    model: StepModel
    attention: AttentionBackend
    kv: KVPool
    sampler: Sampler
    runtime: Runtime
    num_slots: int
    max_pages: int
    num_groups: int
    depth: int = 1
    max_tokens: int = 0
    generates: bool = True


@dataclass(slots=True)
class Forward:
    """A step between its two launches; ``logits`` (S, vocab_size), ``hidden`` (T, hidden_size)."""

    inputs: StepInputs
    hidden: Tensor
    logits: Tensor
    sample_slots: Tensor
    sample_positions: Tensor


@runtime_checkable
class Runner(Protocol):
    """Runs steps, in order. Built as ``runner(parts)``."""

    def warmup(self, buckets: Iterable[Bucket], features: Iterable[frozenset[Feature]]) -> None:
        """Capture or compile what the buckets and feature sets need; after it nothing compiles."""
        ...

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        """The padded sizes that a step of these sizes runs at."""
        ...

    def forward(self, batch: Batch) -> Any:
        """Apply the batch's admissions and page deltas, and launch the model."""
        ...

    def sample(
        self, forward: Any, batch: Batch, mask: npt.NDArray[Any] | None = None
    ) -> Ticket[StepResult]:
        """Launch sampling of what ``forward`` returned; ``mask`` (S, ceil(vocab_size / 32))
        int32."""
        ...


class EagerRunner(Runner):
    """Runs each step as it comes, one torch call after another; pads only to a bucket that is
    asked for."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        device = parts.runtime.device
        rows = parts.num_slots + 1
        self._scratch_slot = parts.num_slots
        self._last_tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._tables = tuple(
            torch.zeros((rows, parts.max_pages), dtype=torch.int32, device=device)
            for _ in range(parts.num_groups)
        )

    def warmup(self, buckets: Iterable[Bucket], features: Iterable[frozenset[Feature]]) -> None:
        return

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return Bucket()

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Forward:
        parts = self._parts
        with parts.runtime.stream():
            for admission in batch.admissions:
                parts.sampler.admit(admission)
            inputs, rows, slots, positions = self._stage(batch)
            plan = parts.attention.plan(inputs)
            hidden = self._hidden(inputs, plan)
            logits = parts.model.logits(hidden[rows])
        return Forward(inputs, hidden, logits, slots, positions)

    @torch.inference_mode()
    def sample(
        self, forward: Forward, batch: Batch, mask: npt.NDArray[Any] | None = None
    ) -> Ticket[StepResult]:
        parts = self._parts
        with parts.runtime.stream():
            device_mask = None
            if mask is not None:
                padding = ((0, forward.logits.shape[0] - len(mask)), (0, 0))
                device_mask = parts.runtime.to_device(np.pad(mask, padding, constant_values=-1))
            sampled = parts.sampler.sample(
                forward.logits, forward.sample_slots, forward.sample_positions, batch, device_mask
            )
            self._last_tokens.index_copy_(0, forward.sample_slots, sampled.token_ids)
            scores = self._score(forward, batch)
            fields, tensors = _flatten(sampled, scores)
            if len(batch.wanted_tokens):
                fields.append("wanted_logprobs")
                tensors.append(self._wanted(forward, batch))
            arrived = parts.runtime.to_host(tensors + self._pool(forward, batch))
        return Mapped(arrived, lambda arrays: _result(batch, fields, arrays))

    def _hidden(self, inputs: StepInputs, plan: Plan) -> Tensor:
        """Hidden states (num_tokens, hidden_size) of a step: where a runner may have another way
        than one call after another."""
        return self._parts.model.forward(inputs, self._parts.attention, self._parts.kv, plan)

    def _stage(self, batch: Batch) -> tuple[StepInputs, Tensor, Tensor, Tensor]:
        """Send one packed array to the device, and cut it into the step's inputs.

        Returns:
            The inputs, then for the sampling rows: token index, slot, position of the sampled
                token.
        """
        columns = _Columns(batch, self._scratch_slot, self._parts.max_pages)
        packed = self._parts.runtime.to_device(columns.packed)
        for table, delta in zip(self._tables, columns.deltas, strict=True):
            if delta is not None:
                table.view(-1).index_copy_(0, packed[delta[0]].long(), packed[delta[1]])
        ids = packed[columns.input_ids].long()
        rows = packed[columns.token_rows].long()
        row_slots = packed[columns.slots].long()
        ids = torch.where(ids == LAST_TOKEN, self._last_tokens[row_slots[rows]], ids)
        inputs = StepInputs(
            host=batch,
            input_ids=ids,
            positions=packed[columns.positions].long(),
            cu_seqlens_q=packed[columns.cu_seqlens_q],
            seq_lens=packed[columns.seq_lens],
            slots=row_slots,
            token_rows=rows,
            slot_mapping=tuple(packed[m].long() for m in columns.slot_mapping),
            page_tables=self._tables,
            token_types=None if columns.token_types is None else packed[columns.token_types].long(),
        )
        sampling = (columns.logits_rows, columns.sample_slots, columns.sample_positions)
        logits_rows, slots, positions = (packed[part].long() for part in sampling)
        return inputs, logits_rows, slots, positions

    def _pool(self, forward: Forward, batch: Batch) -> list[Tensor]:
        """For each group of ``batch.pooled`` what its head makes, (num_outputs, n) float32."""
        send, model = self._parts.runtime.to_device, self._parts.model
        vectors = []
        for group in batch.pooled:
            states = forward.hidden[send(group.tokens.astype(np.int64))]
            if len(group.lengths) != len(group.tokens):
                lengths = send(group.lengths.astype(np.int64))
                # A sum in order, one output at a time: it does not depend on the other outputs.
                means = torch.segment_reduce(states.float(), "mean", lengths=lengths, unsafe=True)
                states = means.to(states.dtype)
            vectors.append(model.pool(states, group.head).float())
        return vectors

    def _score(self, forward: Forward, batch: Batch) -> Sampled | None:
        """Log-probabilities of prompt tokens, in slices of the head."""
        if not len(batch.score_tokens):
            return None
        runtime, model = self._parts.runtime, self._parts.model
        rows, targets = (
            torch.split(runtime.to_device(a.astype(np.int64)), SCORE_SLICE)
            for a in (batch.score_tokens, batch.score_targets)
        )
        parts = [
            score(model.logits(forward.hidden[r]), t, batch.score_top)
            for r, t in zip(rows, targets, strict=True)
        ]
        columns = [[getattr(p, name) for p in parts] for name in _SAMPLED]
        return Sampled(*(None if c[0] is None else torch.cat(c) for c in columns))  # type: ignore[arg-type]

    def _wanted(self, forward: Forward, batch: Batch) -> Tensor:
        """Log-probabilities of given ids, in slices of the head; (num_wanted, k) float32."""
        runtime, model = self._parts.runtime, self._parts.model
        rows, ids = (
            torch.split(runtime.to_device(a.astype(np.int64)), SCORE_SLICE)
            for a in (batch.wanted_tokens, batch.wanted_ids)
        )
        return torch.cat(
            [
                torch.log_softmax(model.logits(forward.hidden[r]).float(), dim=-1).gather(1, i)
                for r, i in zip(rows, ids, strict=True)
            ]
        )


class _Columns:
    """The batch's integer arrays, padded to its bucket and packed into one, with the slices of
    each."""

    def __init__(self, batch: Batch, scratch_slot: int, max_pages: int) -> None:
        pad_t = max(0, batch.bucket.tokens - batch.num_tokens)
        pad_r = max(0, batch.bucket.rows - batch.num_rows)
        pad_s = max(0, batch.bucket.rows - batch.num_samples) if batch.bucket.rows else 0
        counts = np.diff(batch.cu_seqlens_q)
        token_rows = np.repeat(np.arange(batch.num_rows, dtype=np.int32), counts)
        last_row = batch.num_rows + pad_r - 1
        self._arrays: list[npt.NDArray[Any]] = []
        self._end = 0
        self.input_ids = self._add(batch.input_ids, pad_t, 0)
        self.positions = self._add(batch.positions, pad_t, 0)
        self.token_rows = self._add(token_rows, pad_t, last_row)
        self.slots = self._add(batch.slots, pad_r, scratch_slot)
        self.seq_lens = self._add(batch.seq_lens, pad_r, 0)
        self.cu_seqlens_q = self._add(batch.cu_seqlens_q, pad_r, batch.num_tokens)
        self.logits_rows = self._add(batch.logits_rows, pad_s, 0)
        self.sample_slots = self._add(batch.slots[batch.sample_rows], pad_s, scratch_slot)
        self.sample_positions = self._add(batch.seq_lens[batch.sample_rows], pad_s, 0)
        self.slot_mapping = [self._add(m, pad_t, -1) for m in batch.slot_mapping]
        types = batch.token_types
        self.token_types = self._add(types, pad_t, 0) if len(types) else None
        self.deltas: list[tuple[slice, slice] | None] = []
        for delta in batch.page_deltas:
            if len(delta.pages):
                where = delta.slots * np.int32(max_pages) + delta.indices
                self.deltas.append((self._add(where, 0, 0), self._add(delta.pages, 0, 0)))
            else:
                self.deltas.append(None)
        self.packed = np.concatenate(self._arrays)

    def _add(self, array: npt.NDArray[Any], padding: int, value: int) -> slice:
        self._arrays.append(array.astype(np.int32, copy=False))
        if padding:
            self._arrays.append(np.full(padding, value, np.int32))
        start, self._end = self._end, self._end + len(array) + padding
        return slice(start, self._end)


_SAMPLED = ("token_ids", "logprobs", "top_ids", "top_logprobs")
_SCORED = (None, "score_logprobs", "score_top_ids", "score_top_logprobs")


def _flatten(sampled: Sampled, scores: Sampled | None) -> tuple[list[str], list[Tensor]]:
    """The parts that exist, with the ``StepResult`` field of each."""
    fields: list[str] = []
    tensors: list[Tensor] = []
    sources: Sequence[tuple[Sampled | None, Sequence[str | None]]] = (
        (sampled, _SAMPLED),
        (scores, _SCORED),
    )
    for source, targets in sources:
        for name, target in zip(_SAMPLED, targets, strict=True):
            value = None if source is None else getattr(source, name)
            if target is not None and value is not None:
                fields.append(target)
                tensors.append(value)
    return fields, tensors


def _result(batch: Batch, fields: list[str], arrays: list[npt.NDArray[Any]]) -> StepResult:
    values = dict(zip(fields, arrays, strict=False))
    for name, array in values.items():
        if name in _SAMPLED:
            values[name] = array[: batch.num_samples]
        if array.dtype == np.int64:
            values[name] = values[name].astype(np.int32)
    return StepResult(**values, pooled=tuple(arrays[len(fields) :]))


RunnerFactory = Callable[[RunnerParts], Runner]
