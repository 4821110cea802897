"""What some steps give besides tokens, as programs of few sizes over the step's hidden states."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import RunnerParts
from tupelo.backend.results import SCORE_SLICE, Extras
from tupelo.batch import PoolGroup
from tupelo.request import MAX_LOGPROB_IDS, MAX_TOP_LOGPROBS
from tupelo_tpu.buckets import at_least
from tupelo_tpu.programs import Programs

WANTED_WIDTHS = (16, MAX_LOGPROB_IDS)
"""Ids whose log-probabilities a program gives at each position."""


class XlaExtras(Extras):
    """``Extras`` by programs. Their results are joined on the host, since their number varies."""

    def __init__(self, parts: RunnerParts, programs: Programs) -> None:
        super().__init__(parts)
        self._programs = programs

    def run(
        self, key: Hashable, fn: Callable[..., Sequence[Tensor]], args: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        return self._programs.run(key, fn, args)

    def slices(self, num_tokens: int, *arrays: npt.NDArray[Any]) -> list[Sequence[Tensor]]:
        """In slices of one size, the last one filled with zeros."""
        size, send = min(SCORE_SLICE, num_tokens), self._runtime.to_device
        filled = [_filled(array, -len(array) % size).astype(np.int64) for array in arrays]
        starts = range(0, len(filled[0]), size)
        return [[send(array[start : start + size]) for array in filled] for start in starts]

    def join(self, slices: Sequence[Tensor]) -> Sequence[Tensor]:
        return slices

    def num_top(self, wanted: int) -> int:
        return MAX_TOP_LOGPROBS

    def padded_ids(self, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        width = at_least(WANTED_WIDTHS, ids.shape[1])
        return np.pad(ids, ((0, 0), (0, width - ids.shape[1])))

    def pool(self, hidden: Tensor, group: PoolGroup) -> Tensor:
        """For as many outputs as there are tokens; one more takes what is padding."""
        model, send, size = self._model, self._runtime.to_device, len(hidden)

        def run(hidden: Tensor, tokens: Tensor, owners: Tensor, counts: Tensor) -> list[Tensor]:
            states = hidden[tokens].float()
            sums = torch.zeros((size + 1, states.shape[1]), device=states.device)
            means = sums.index_add(0, owners, states) / counts.unsqueeze(1)
            return [model.pool(means.to(hidden.dtype), group.head).float()]

        missing = size - len(group.tokens)
        owners = np.repeat(np.arange(len(group.lengths)), group.lengths)
        counts = np.ones(size + 1, np.float32)
        counts[: len(group.lengths)] = group.lengths
        args = [
            hidden,
            send(_filled(group.tokens, missing).astype(np.int64)),
            send(_filled(owners, missing, size).astype(np.int64)),
            send(counts),
        ]
        return self._programs.run(("pool", size, group.head), run, args)[0]


def _filled(array: npt.NDArray[Any], missing: int, value: int = 0) -> npt.NDArray[Any]:
    """So many more rows of ``value``."""
    return np.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)), constant_values=value)
