"""Running steps on the device: the vendor-facing protocol and the eager default.

The runner owns the slots' device state (last token, page tables; sampling state is the sampler's)
and the ring of staging buffers. A step is two launches, ``forward`` then ``sample``, so that the
host can finish the step before between them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.packing import StepLayout
from tupelo.backend.results import Extras, fetch, sampled_parts
from tupelo.backend.runtime import Runtime, Ticket
from tupelo.backend.sampler import Sampler
from tupelo.backend.step import StepInputs
from tupelo.batch import Batch, Bucket, Feature, StepResult


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
        self._extras = Extras(parts)
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
            extras = self._extras.launch(forward.hidden, batch)
            return fetch(parts.runtime, [*sampled_parts(sampled, batch), *extras])

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
        layout = StepLayout.of(batch, self._scratch_slot, self._parts.max_pages)
        fields = layout.split(self._parts.runtime.to_device(layout.pack(batch)))
        for group, table in enumerate(self._tables):
            if layout.changes[group]:
                where = fields[f"delta_where_{group}"].long()
                table.view(-1).index_copy_(0, where, fields[f"delta_pages_{group}"])
        inputs = layout.inputs(fields, batch, self._last_tokens, self._tables)
        sampling = ("logits_rows", "sample_slots", "sample_positions")
        logits_rows, slots, positions = (fields[name].long() for name in sampling)
        return inputs, logits_rows, slots, positions


RunnerFactory = Callable[[RunnerParts], Runner]
