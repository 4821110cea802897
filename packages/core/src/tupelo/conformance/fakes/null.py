"""A backend that computes nothing: what is left is the host's own work.

For benchmarks of scheduling, batch building and result handling, and for tests of the scheduler:
ids are a cheap function of slot and length, and no tensor is touched in a step.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tupelo.backend import (
    Backend,
    Capabilities,
    Done,
    Mapped,
    Runner,
    RunnerParts,
    Ticket,
    TorchKVPool,
)
from tupelo.batch import Batch, Bucket, Feature, StepResult
from tupelo.conformance.fakes.clock import DeviceClock, LateTicket
from tupelo.specs import KVSpec


class NullFake:
    """The backend and its clock.

    Args:
        vocab_size: sampled ids lie below it.
        device_s, latency_s: simulated times, as in ``DeviceClock``; 0 answers at once.

    Attributes:
        clock: when each step was launched, readable and read; empty where both times are 0.
    """

    def __init__(self, vocab_size: int, *, device_s: float = 0.0, latency_s: float = 0.0) -> None:
        self.clock = DeviceClock(device_s, latency_s)
        self.vocab_size = vocab_size
        self.backend = Backend(
            name="null",
            device="cpu",
            capabilities=Capabilities(priority=-1, same_step_sharing=True),
            kv_pool=_NoPool,
            runner=lambda parts: NullRunner(parts, self),
        )


class NullRunner(Runner):
    """Answers every step with made-up results of the right shapes."""

    def __init__(self, parts: RunnerParts, fake: NullFake) -> None:
        self._fake = fake
        self._late = fake.clock.device_s > 0 or fake.clock.latency_s > 0

    def warmup(self, buckets: Iterable[Bucket], features: Iterable[frozenset[Feature]]) -> None:
        return

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return Bucket()

    def forward(self, batch: Batch) -> Any:
        if self._late:
            self._fake.clock.launch(batch.step)
        return None

    def sample(
        self, forward: Any, batch: Batch, mask: npt.NDArray[Any] | None = None
    ) -> Ticket[StepResult]:
        result = self._result(batch)
        if not self._late:
            return Done(result)
        clock, step = self._fake.clock, batch.step
        arrival_s = clock.arrival_s()
        clock.note("readable", step, arrival_s)

        def read(value: StepResult) -> StepResult:
            clock.note("read", step, clock.now_s())
            return value

        return Mapped(LateTicket(result, arrival_s), read)

    def _result(self, batch: Batch) -> StepResult:
        slots, lengths = batch.slots[batch.sample_rows], batch.seq_lens[batch.sample_rows]
        ids = ((slots * 40503 + lengths * 30011) % self._fake.vocab_size).astype(np.int32)
        result = StepResult(token_ids=ids)
        if Feature.LOGPROBS in batch.features:
            result.logprobs = np.zeros(len(ids), np.float32)
            if batch.top_logprobs:
                result.top_ids = np.zeros((len(ids), batch.top_logprobs), np.int32)
                result.top_logprobs = np.zeros((len(ids), batch.top_logprobs), np.float32)
        result.pooled = tuple(np.zeros((len(g.lengths), 1), np.float32) for g in batch.pooled)
        if len(batch.wanted_tokens):
            result.wanted_logprobs = np.zeros(batch.wanted_ids.shape, np.float32)
        if len(batch.score_tokens):
            shape = (len(batch.score_tokens), batch.score_top)
            result.score_logprobs = np.zeros(shape[0], np.float32)
            if batch.score_top:
                result.score_top_ids = np.zeros(shape, np.int32)
                result.score_top_logprobs = np.zeros(shape, np.float32)
        return result


class _NoPool(TorchKVPool):
    """Pages that hold nothing: the same answers as a pool, over one page of memory."""

    def __init__(
        self, specs: Sequence[KVSpec], num_pages: Sequence[int], page_size: int, runtime: Any
    ) -> None:
        super().__init__(specs, [0] * len(num_pages), page_size, runtime)
