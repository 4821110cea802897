"""What some steps give besides tokens: scores of prompts, wanted log-probabilities, vectors.

Each is a program over the step's hidden states, apart from sampling, so that steps which want none
of it, nearly all, pay nothing and need no program of their own.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import RunnerParts, score
from tupelo.backend.runner import SCORE_SLICE
from tupelo.batch import Batch
from tupelo.request import MAX_LOGPROB_IDS, MAX_TOP_LOGPROBS
from tupelo_tpu.buckets import at_least
from tupelo_tpu.programs import Programs

WANTED_WIDTHS = (16, MAX_LOGPROB_IDS)
"""Ids whose log-probabilities a program gives at each position."""


class Extras:
    """Launches these programs, and reads what came of them."""

    def __init__(self, parts: RunnerParts, programs: Programs) -> None:
        self._parts, self._programs = parts, programs

    def launch(self, hidden: Tensor, batch: Batch) -> list[list[Tensor]]:
        """What a step wants besides tokens, over its ``hidden`` (T, hidden_size): the slices of its
        scores, those of its wanted log-probabilities as one part, its vectors as the last."""
        scores, wanted = self._score(hidden, batch), self._wanted(hidden, batch)
        return [*scores, wanted, self._pool(hidden, batch)]

    def _score(self, hidden: Tensor, batch: Batch) -> list[list[Tensor]]:
        """Log-probabilities of prompt tokens, a slice of the head at a time."""
        model, top = self._parts.model, MAX_TOP_LOGPROBS

        def run(hidden: Tensor, rows: Tensor, targets: Tensor) -> list[Tensor]:
            logits = model.logits(hidden[rows])
            scored = score(logits, targets, min(top, logits.shape[1]))
            assert scored.logprobs is not None
            assert scored.top_ids is not None
            assert scored.top_logprobs is not None
            return [scored.logprobs, scored.top_ids, scored.top_logprobs]

        key = ("score", len(hidden))
        sent = self._slices(len(hidden), batch.score_tokens, batch.score_targets)
        got = [self._programs.run(key, run, [hidden, *part]) for part in sent]
        return [part if batch.score_top else part[:1] for part in got]

    def _wanted(self, hidden: Tensor, batch: Batch) -> list[Tensor]:
        """Log-probabilities of given ids, likewise; each (slice, width)."""
        model, ids = self._parts.model, batch.wanted_ids
        width = at_least(WANTED_WIDTHS, ids.shape[1])
        filled = np.pad(ids, ((0, 0), (0, width - ids.shape[1])))

        def run(hidden: Tensor, rows: Tensor, ids: Tensor) -> list[Tensor]:
            logits = model.logits(hidden[rows]).float()
            return [torch.log_softmax(logits, dim=-1).gather(1, ids)]

        key = ("wanted", len(hidden), width)
        sent = self._slices(len(hidden), batch.wanted_tokens, filled)
        return [self._programs.run(key, run, [hidden, *part])[0] for part in sent]

    def _slices(self, num_tokens: int, *arrays: npt.NDArray[Any]) -> list[list[Tensor]]:
        """Arrays of one length, sent in slices of one size, the last one filled with zeros."""
        size, send = min(SCORE_SLICE, num_tokens), self._parts.runtime.to_device
        slices = []
        for start in range(0, len(arrays[0]), size):
            parts = [array[start : start + size].astype(np.int64) for array in arrays]
            missing = size - len(parts[0])
            padded = [np.pad(p, ((0, missing), *[(0, 0)] * (p.ndim - 1))) for p in parts]
            slices.append([send(p) for p in padded])
        return slices

    def _pool(self, hidden: Tensor, batch: Batch) -> list[Tensor]:
        """Vectors of each group, (T + 1, n) float32: one output more takes what is padding."""
        model, send = self._parts.model, self._parts.runtime.to_device
        size = len(hidden)

        def pool(head: str, hidden: Tensor, tokens: Tensor, owners: Tensor, n: Tensor) -> Tensor:
            states = hidden[tokens].float()
            sums = torch.zeros((size + 1, states.shape[1]), device=states.device)
            means = sums.index_add(0, owners, states) / n.unsqueeze(1)
            return model.pool(means.to(hidden.dtype), head).float()

        made = []
        for group in batch.pooled:
            missing = size - len(group.tokens)
            owners = np.repeat(np.arange(len(group.lengths)), group.lengths)
            lengths = np.ones(size + 1, np.float32)
            lengths[: len(group.lengths)] = group.lengths
            args = [
                hidden,
                send(np.pad(group.tokens, (0, missing)).astype(np.int64)),
                send(np.pad(owners, (0, missing), constant_values=size).astype(np.int64)),
                send(lengths),
            ]
            key = ("pool", size, group.head)
            made += self._programs.run(key, _bind(pool, group.head), args)
        return made


def read_extras(
    launched: list[list[Tensor]], arrays: list[npt.NDArray[Any]], batch: Batch
) -> dict[str, Any]:
    """Fields of the ``StepResult``.

    Args:
        launched: what ``Extras.launch`` returned. arrays: the same in a row, on the host.
    """
    ends = np.cumsum([0, *(len(part) for part in launched)]).tolist()
    *scores, wanted, pooled = (arrays[a:b] for a, b in itertools.pairwise(ends))
    return {
        **_score_result(scores, batch),
        "wanted_logprobs": _wanted_result(wanted, batch),
        "pooled": tuple(
            vectors[: len(group.lengths)]
            for vectors, group in zip(pooled, batch.pooled, strict=True)
        ),
    }


def _bind(fn: Callable[..., Tensor], head: str) -> Callable[..., list[Tensor]]:
    return lambda *args: [fn(head, *args)]


def _score_result(slices: list[list[npt.NDArray[Any]]], batch: Batch) -> dict[str, Any]:
    if not slices:
        return {}
    names = ("score_logprobs", "score_top_ids", "score_top_logprobs")
    joined = [
        np.concatenate(parts)[: len(batch.score_tokens)] for parts in zip(*slices, strict=True)
    ]
    values = dict(zip(names, joined, strict=False))
    for name in names[1:]:
        if name in values:
            values[name] = values[name][:, : batch.score_top]
    if names[1] in values:
        values[names[1]] = values[names[1]].astype(np.int32)
    return values


def _wanted_result(slices: list[npt.NDArray[Any]], batch: Batch) -> npt.NDArray[np.float32] | None:
    if not slices:
        return None
    whole: npt.NDArray[np.float32] = np.concatenate(slices)
    return whole[: len(batch.wanted_tokens), : batch.wanted_ids.shape[1]]
