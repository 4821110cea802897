"""What a step gives, on its way to the host: tokens, and what some steps want besides them.

The latter are functions of the step's hidden states, apart from sampling, so that steps which want
none of it, nearly all, pay nothing.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend.runtime import Mapped, Runtime, Ticket
from tupelo.backend.sampler import Sampled, score
from tupelo.batch import Batch, Feature, PoolGroup, StepResult

if TYPE_CHECKING:
    from tupelo.backend.runner import RunnerParts

SCORE_SLICE = 256
"""Prompt positions whose logits exist at once while scoring: bounds memory at 256 x vocab_size
floats."""


@dataclass(frozen=True, slots=True)
class Part:
    """An array of a ``StepResult``, on the device.

    Attributes:
        field: its name there; ``pooled`` comes once for each group.
        slices: its rows, one after another. rows: how many count; the rest is padding. width:
            columns that count, None for all.
    """

    field: str
    slices: Sequence[Tensor]
    rows: int
    width: int | None = None


def fetch(runtime: Runtime, parts: Sequence[Part]) -> Ticket[StepResult]:
    """Send them to the host in one go."""

    def read(arrays: list[npt.NDArray[Any]]) -> StepResult:
        rest = iter(arrays)
        fields: dict[str, Any] = {"pooled": ()}
        for part in parts:
            slices = [next(rest) for _ in part.slices]
            whole = slices[0] if len(slices) == 1 else np.concatenate(slices)
            cut = whole[: part.rows]
            cut = cut if part.width is None else cut[:, : part.width]
            cut = cut.astype(np.int32) if cut.dtype == np.int64 else cut
            fields[part.field] = (*fields["pooled"], cut) if part.field == "pooled" else cut
        return StepResult(**fields)

    return Mapped(runtime.to_host([t for part in parts for t in part.slices]), read)


def sampled_parts(sampled: Sampled, batch: Batch) -> list[Part]:
    """The sampled tokens, and of their log-probabilities what the step wants."""
    found = [Part("token_ids", [sampled.token_ids], batch.num_samples)]
    if Feature.LOGPROBS in batch.features and sampled.logprobs is not None:
        found.append(Part("logprobs", [sampled.logprobs], batch.num_samples))
        if batch.top_logprobs:
            assert sampled.top_ids is not None
            assert sampled.top_logprobs is not None
            size = (batch.num_samples, batch.top_logprobs)
            found.append(Part("top_ids", [sampled.top_ids], *size))
            found.append(Part("top_logprobs", [sampled.top_logprobs], *size))
    return found


class Extras:
    """Scores of prompts, wanted log-probabilities, vectors.

    The methods after ``launch`` are what a runner does otherwise that has programs of few sizes.
    """

    def __init__(self, parts: "RunnerParts") -> None:
        self._model, self._runtime = parts.model, parts.runtime

    def launch(self, hidden: Tensor, batch: Batch) -> list[Part]:
        """What a step wants besides tokens, over its ``hidden`` (T, hidden_size)."""
        pooled = [
            Part("pooled", [self.pool(hidden, group)], len(group.lengths)) for group in batch.pooled
        ]
        return [*self._scores(hidden, batch), *self._wanted(hidden, batch), *pooled]

    def _scores(self, hidden: Tensor, batch: Batch) -> list[Part]:
        """Log-probabilities of prompt tokens, in slices of the head."""
        if not len(batch.score_tokens):
            return []
        model, top = self._model, self.num_top(batch.score_top)

        def run(hidden: Tensor, rows: Tensor, targets: Tensor) -> list[Tensor]:
            logits = model.logits(hidden[rows])
            scored = score(logits, targets, min(top, logits.shape[1]))
            parts = (scored.logprobs, scored.top_ids, scored.top_logprobs)
            return [part for part in parts if part is not None]

        sent = self.slices(len(hidden), batch.score_tokens, batch.score_targets)
        made = [self.run(("score", len(hidden)), run, [hidden, *part]) for part in sent]
        logprobs, *tops = (self.join(column) for column in zip(*made, strict=True))
        rows, width = len(batch.score_tokens), batch.score_top
        names = ("score_top_ids", "score_top_logprobs") if width else ()
        more = [Part(name, top, rows, width) for name, top in zip(names, tops, strict=False)]
        return [Part("score_logprobs", logprobs, rows), *more]

    def _wanted(self, hidden: Tensor, batch: Batch) -> list[Part]:
        """Log-probabilities of given ids, likewise."""
        if not len(batch.wanted_tokens):
            return []
        model, ids = self._model, self.padded_ids(batch.wanted_ids)

        def run(hidden: Tensor, rows: Tensor, ids: Tensor) -> list[Tensor]:
            logits = model.logits(hidden[rows]).float()
            return [torch.log_softmax(logits, dim=-1).gather(1, ids)]

        key = ("wanted", len(hidden), ids.shape[1])
        sent = self.slices(len(hidden), batch.wanted_tokens, ids)
        made = self.join([self.run(key, run, [hidden, *part])[0] for part in sent])
        return [Part("wanted_logprobs", made, *batch.wanted_ids.shape)]

    def run(
        self, key: Hashable, fn: Callable[..., Sequence[Tensor]], args: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """``fn`` of ``args``; ``key`` says all that it depends on besides their values."""
        return fn(*args)

    def slices(self, num_tokens: int, *arrays: npt.NDArray[Any]) -> list[Sequence[Tensor]]:
        """Arrays of one length, sent to the device as int64 and cut alike."""
        sent = [self._runtime.to_device(array.astype(np.int64)) for array in arrays]
        return list(zip(*(torch.split(t, SCORE_SLICE) for t in sent), strict=True))

    def join(self, slices: Sequence[Tensor]) -> Sequence[Tensor]:
        """The slices of a result as few tensors as may be."""
        return [torch.cat(list(slices))]

    def num_top(self, wanted: int) -> int:
        """How many of the most probable tokens to find where some are wanted."""
        return wanted

    def padded_ids(self, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(num_wanted, k) ids, wider if need be."""
        return ids

    def pool(self, hidden: Tensor, group: PoolGroup) -> Tensor:
        """What a group's head makes of the means of its outputs' tokens, (num_outputs, n) float32
        and maybe more rows."""
        send = self._runtime.to_device
        states = hidden[send(group.tokens.astype(np.int64))]
        if len(group.lengths) != len(group.tokens):
            lengths = send(group.lengths.astype(np.int64))
            # A sum in order, one output at a time: it does not depend on the other outputs.
            means = torch.segment_reduce(states.float(), "mean", lengths=lengths, unsafe=True)
            states = means.to(states.dtype)
        return self._model.pool(states, group.head).float()
