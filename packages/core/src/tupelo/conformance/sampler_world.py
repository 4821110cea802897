"""A backend's sampler driven directly, and what it should choose, in float64 numpy."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from tupelo.backend import Sampled
from tupelo.batch import Admission, Batch, Feature
from tupelo.conformance.case import check
from tupelo.conformance.target import Target
from tupelo.ops import OPS, OpTable
from tupelo.request import SamplingParams

Doubles = npt.NDArray[np.float64]


class SamplerWorld:
    """One sampler and its slots.

    Args:
        dtype: of the logits that it is given.
    """

    def __init__(self, target: Target, num_slots: int, vocab_size: int, dtype: str) -> None:
        backend = target.backend
        self.num_slots, self.vocab_size = num_slots, vocab_size
        self._runtime = backend.runtime(backend.device)
        self._dtype = getattr(torch, dtype)
        ops = OpTable(OPS, backend.kernels)
        self._sampler = backend.sampler(num_slots, vocab_size, ops, self._runtime)
        self._steps = 0
        self._runtime.synchronize()  # steps run on a stream of their own

    def admit(
        self,
        slot: int,
        params: SamplingParams,
        *,
        seed: int = 0,
        prompt: Sequence[int] = (0,),
        output: Sequence[int] = (),
        stop_ids: tuple[int, ...] = (),
    ) -> None:
        """Give a slot to a request with this prompt, and this output from before a retraction."""
        admission = Admission(
            slot=slot,
            params=params,
            seed=seed,
            input_ids=np.array([*prompt, *output], np.int32),
            num_prompt_tokens=len(prompt),
            stop_ids=stop_ids,
        )
        with self._runtime.stream():
            self._sampler.admit(admission)

    def sample(
        self,
        logits: npt.ArrayLike,
        slots: Sequence[int],
        positions: Sequence[int],
        features: Iterable[Feature],
        *,
        mask: npt.NDArray[np.int32] | None = None,
        top: int = 0,
        padding: int = 0,
    ) -> tuple[npt.NDArray[np.int64], Sampled]:
        """One call: ids of the real rows on the host, and all that came back.

        Args:
            logits: (rows, vocab_size). padding: rows to add, in the scratch slot.
        """
        rows = np.asarray(logits, np.float32)
        filled = np.concatenate((rows, np.full((padding, self.vocab_size), 3.0, np.float32)))
        if mask is not None:
            mask = np.concatenate((mask, np.full((padding, mask.shape[1]), -1, np.int32)))
        with torch.inference_mode(), self._runtime.stream():
            sent = self._runtime.to_device(filled).to(self._dtype)
            kept = sent.clone()
            sampled = self._sampler.sample(
                sent,
                self._send([*slots, *[self.num_slots] * padding]),
                self._send([*positions, *[0] * padding]),
                self._batch(slots, positions, frozenset(features), top),
                None if mask is None else self._runtime.to_device(mask),
            )
            same = torch.equal(sent, kept)
            ids = sampled.token_ids.cpu().numpy()[: len(slots)].astype(np.int64)
        check(same, "sample() changed its logits")
        self._runtime.synchronize()
        return ids, sampled

    def _send(self, values: Sequence[int]) -> torch.Tensor:
        return self._runtime.to_device(np.array(values, np.int64))

    def _batch(
        self, slots: Sequence[int], positions: Sequence[int], features: frozenset[Feature], top: int
    ) -> Batch:
        rows = len(slots)
        each = np.arange(rows, dtype=np.int32)
        self._steps += 1
        return Batch(
            step=self._steps,
            slots=np.array(slots, np.int32),
            num_decode_rows=rows,
            cu_seqlens_q=np.arange(rows + 1, dtype=np.int32),
            seq_lens=np.array(positions, np.int32),
            input_ids=np.zeros(rows, np.int32),
            positions=np.array(positions, np.int32) - 1,
            slot_mapping=(each,),
            page_deltas=(),
            logits_rows=each,
            sample_rows=each,
            top_logprobs=top,
            features=features,
        )


def penalised(
    logits: npt.ArrayLike, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> Doubles:
    """One row's logits (vocab_size,) after penalties, by their definitions.

    Repetition, over prompt and output: positive logits are divided by it, negative ones multiplied
    (Keskar et al., "CTRL", 2019). Frequency and presence, over the output alone: minus the count
    times the one, minus the other where the count is not 0 (OpenAI's API reference).
    """
    row = np.array(logits, np.float64)
    for token in set(prompt) | set(output):
        factor = params.repetition_penalty
        row[token] = row[token] / factor if row[token] > 0 else row[token] * factor
    for token in set(output):
        row[token] -= params.frequency_penalty * list(output).count(token)
        row[token] -= params.presence_penalty
    return row


def log_softmax(logits: npt.ArrayLike) -> Doubles:
    """(rows, vocab_size) log-probabilities."""
    rows = np.asarray(logits, np.float64)
    shifted = rows - rows.max(axis=-1, keepdims=True)
    out: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return out
