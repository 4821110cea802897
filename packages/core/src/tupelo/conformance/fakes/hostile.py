"""A backend that is as strict as the strictest device: compiled, functional, and late.

Static buckets only; K/V written through ``KVPool.replace``; no host read inside a step; results
reach the host 20 ms after the device is done; staging arrays must keep until then.
"""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import (
    Backend,
    Capabilities,
    EagerRunner,
    Forward,
    GraphGrade,
    Mapped,
    Plan,
    ReferenceAttention,
    RunnerParts,
    Sampled,
    StepInputs,
    Ticket,
    TorchKVPool,
    TorchRuntime,
    TorchSampler,
)
from tupelo.batch import Admission, Batch, Bucket, PoolGroup, StepResult
from tupelo.conformance.fakes.clock import DeviceClock, LateTicket
from tupelo.conformance.fakes.guard import Guard, Signature
from tupelo.errors import BackendError, CapabilityError

BUCKET_TOKENS = (4, 16, 64, 256, 1024, 4096)
BUCKET_ROWS = (4, 16, 64, 256)


class HostileFake:
    """The backend, and what a test may ask of it.

    Args:
        device_s: simulated time of a step on the device.
        latency_s: how late results arrive.

    Attributes:
        clock: when each step was launched, readable and read.
        backend: the record.
    """

    def __init__(self, *, device_s: float = 0.0, latency_s: float = 0.02) -> None:
        self.clock = DeviceClock(device_s, latency_s)
        self._pools: weakref.WeakSet[_Pool] = weakref.WeakSet()
        self.guard = Guard(self._storages)
        self.backend = Backend(
            name="hostile",
            device="cpu",
            capabilities=Capabilities(
                priority=-1,
                dtypes=("float32",),
                graph=GraphGrade.COMPILED,
                static_shapes=True,
                functional_kv=True,
                same_step_sharing=True,
            ),
            attention=lambda *args: _Attention(self.guard, *args),
            kv_pool=self._make_pool,
            sampler=lambda *args: _Sampler(self.guard, *args),
            runner=lambda parts: _Runner(parts, self),
            runtime=lambda device: _Runtime(device, self),
        )

    def _make_pool(self, *args: Any) -> TorchKVPool:
        pool = _Pool(*args)
        self._pools.add(pool)
        return pool

    def _storages(self) -> set[int]:
        return {address for pool in self._pools for address in pool.addresses()}


def hostile_backend() -> Backend:
    """The hostile backend, as an entry point would name it."""
    return HostileFake().backend


class _Pool(TorchKVPool):
    """Knows where its storage lies."""

    def addresses(self) -> list[int]:
        """Of every storage in use."""
        return [t.untyped_storage().data_ptr() for pair in self._layers.values() for t in pair]


class _Attention(ReferenceAttention):
    """The reference, guarded."""

    def __init__(self, guard: Guard, *args: Any) -> None:
        super().__init__(*args)
        self._guard = guard
        if self._in_place:
            raise CapabilityError("functional_kv is declared, but attention was told in_place")

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        if inputs.host.bucket == Bucket():
            raise BackendError("static_shapes is declared, but the step has no bucket")
        with self._guard.watch():
            return super().plan(inputs, out)

    def forward(self, *args: Any) -> Tensor:
        with self._guard.watch():
            return super().forward(*args)


class _Sampler(TorchSampler):
    """The default, guarded while it samples."""

    def __init__(self, guard: Guard, *args: Any) -> None:
        super().__init__(*args)
        self._guard = guard

    def admit(self, admission: Admission) -> None:
        with self._guard.pause():
            super().admit(admission)

    def sample(self, *args: Any) -> Sampled:
        with self._guard.watch():
            return super().sample(*args)


class _Runtime(TorchRuntime):
    """Copies like a device with a memory of its own: apart, and late."""

    def __init__(self, device: str, fake: HostileFake) -> None:
        super().__init__(device)
        self._fake = fake
        self._staged: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []

    def to_device(self, array: npt.NDArray[Any]) -> Tensor:
        self._staged.append((array, array.copy()))
        return torch.from_numpy(array).clone()

    def to_host(self, tensors: Sequence[Tensor]) -> Ticket[list[npt.NDArray[Any]]]:
        staged, self._staged = self._staged, []
        with self._fake.guard.pause():
            arrays = [t.detach().clone().numpy() for t in tensors]

        def check_staging(value: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            for array, kept in staged:
                if not np.array_equal(array, kept, equal_nan=array.dtype.kind == "f"):
                    raise BackendError("a staging array was changed before the device had run")
            return value

        return Mapped(LateTicket(arrays, self._fake.clock.arrival_s()), check_staging)


class _Runner(EagerRunner):
    """Pads to its buckets, and insists that a bucket's program never changes."""

    def __init__(self, parts: RunnerParts, fake: HostileFake) -> None:
        super().__init__(parts)
        self._fake = fake
        self._programs: dict[Any, list[Signature]] = {}

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return Bucket(_at_least(BUCKET_TOKENS, num_tokens), _at_least(BUCKET_ROWS, num_rows))

    def forward(self, batch: Batch) -> Forward:
        if batch.bucket != self.bucket(batch.bucket.tokens, batch.bucket.rows):
            raise BackendError(f"{batch.bucket} is none of this runner's buckets")
        if batch.bucket.tokens < batch.num_tokens or batch.bucket.rows < batch.num_rows:
            raise BackendError(f"{batch.bucket} is too small for the step")
        self._fake.clock.launch(batch.step)
        with self._fake.guard.program(self._programs, ("forward", batch.bucket)):
            return super().forward(batch)

    def sample(
        self, forward: Forward, batch: Batch, mask: npt.NDArray[Any] | None = None
    ) -> Ticket[StepResult]:
        scores, wanted = len(batch.score_tokens), len(batch.wanted_tokens)
        padded = _pad_pooled(_pad_wanted(_pad_scores(batch)))
        heads = tuple(group.head for group in batch.pooled)
        widths = (batch.top_logprobs, batch.score_top, padded.wanted_ids.shape)
        features = (batch.features, widths, heads)
        key = (batch.bucket, *features, mask is None)
        with self._fake.guard.program(self._programs, ("sample", *key, scores > 0)):
            ticket = super().sample(forward, padded, mask)
        clock, step = self._fake.clock, batch.step
        clock.note("readable", step, clock.arrival_s())

        def read(result: StepResult) -> StepResult:
            clock.note("read", step, clock.now_s())
            lengths = [len(group.lengths) for group in batch.pooled]
            cut = tuple(v[:n] for v, n in zip(result.pooled, lengths, strict=True))
            named = None if result.wanted_logprobs is None else result.wanted_logprobs[:wanted]
            return replace(_cut_scores(result, scores), pooled=cut, wanted_logprobs=named)

        return Mapped(ticket, read)

    def _stage(self, batch: Batch) -> tuple[StepInputs, Tensor, Tensor, Tensor]:
        with self._fake.guard.pause():
            return super()._stage(batch)


def _pad_scores(batch: Batch) -> Batch:
    """Scored positions filled up to the bucket's tokens, where there are any."""
    missing = batch.bucket.tokens - len(batch.score_tokens)
    if not len(batch.score_tokens):
        return batch
    return replace(
        batch,
        score_tokens=np.pad(batch.score_tokens, (0, missing)),
        score_targets=np.pad(batch.score_targets, (0, missing)),
    )


def _pad_wanted(batch: Batch) -> Batch:
    """Positions at which ids are named, filled up likewise."""
    missing = batch.bucket.tokens - len(batch.wanted_tokens)
    if not len(batch.wanted_tokens):
        return batch
    return replace(
        batch,
        wanted_tokens=np.pad(batch.wanted_tokens, (0, missing)),
        wanted_ids=np.pad(batch.wanted_ids, ((0, missing), (0, 0))),
    )


def _pad_pooled(batch: Batch) -> Batch:
    """Groups filled up to sizes of the bucket: an output more takes the tokens that are too many.

    There are always more tokens than outputs, so that single tokens and means are one program.
    """
    size = batch.bucket.tokens
    groups = []
    for group in batch.pooled:
        lengths = np.zeros(size + 1, np.int32)
        lengths[: len(group.lengths)] = group.lengths
        lengths[-1] = size + 2 - len(group.tokens)
        groups.append(PoolGroup(group.head, np.pad(group.tokens, (0, int(lengths[-1]))), lengths))
    return replace(batch, pooled=tuple(groups))


def _cut_scores(result: StepResult, count: int) -> StepResult:
    names = ("score_logprobs", "score_top_ids", "score_top_logprobs")
    found = {name: getattr(result, name) for name in names}
    return replace(result, **{n: v[:count] for n, v in found.items() if v is not None})


def _at_least(sizes: Sequence[int], wanted: int) -> int:
    for size in sizes:
        if size >= wanted:
            return size
    raise CapabilityError(f"a step of {wanted}; the largest bucket is {sizes[-1]}")
