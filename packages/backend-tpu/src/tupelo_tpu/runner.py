"""Steps as programs of fixed sizes: one for the model, one for sampling, each compiled by bucket.

A step's inputs are one packed array. Programs are functions of what they are given: the slots' last
tokens, the page tables and the K/V pool go in, and their successors come out, in the same memory::

    forward   packed, last tokens, tables, K/V -> hidden, logits, slots, positions, tables', K/V'
    sample    logits, slots, positions, sampling state, last tokens -> ids, scores, last tokens'
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import Runner, RunnerParts, Sampled, Ticket
from tupelo.backend.graphs.buckets import idle_batch
from tupelo.backend.packing import StepLayout
from tupelo.backend.results import fetch, sampled_parts
from tupelo.batch import Admission, Batch, Bucket, Feature, StepResult
from tupelo.request import MAX_TOP_LOGPROBS, SamplingParams
from tupelo_tpu.buckets import MORE_CHANGES, Buckets, excess, step_layout
from tupelo_tpu.extras import WANTED_WIDTHS, XlaExtras
from tupelo_tpu.kv_pool import XlaKVPool
from tupelo_tpu.programs import Programs
from tupelo_tpu.sampler import BIAS_WIDTHS, XlaSampler

logger = logging.getLogger(__name__)

USUAL_TOKENS = 512
"""Prompt tokens of a step where nobody has said."""

PLAIN: frozenset[Feature] = frozenset()
DRAWN = frozenset({Feature.SAMPLING})
ALL = frozenset(Feature)
"""What programs of sampling do: the most probable token, a drawn one, or everything, which changes
nothing for a row that did not ask for it. Three programs serve all 32 sets of features."""


@dataclass(frozen=True, slots=True)
class XlaForward:
    """A step between its two launches, with T tokens, R rows.

    Attributes:
        hidden: (T, hidden_size). logits: (R, vocab_size). slots, positions: (R,) int64.
    """

    hidden: Tensor
    logits: Tensor
    slots: Tensor
    positions: Tensor


class XlaRunner(Runner):
    """``Runner`` over ``Programs``."""

    def __init__(self, parts: RunnerParts) -> None:
        assert isinstance(parts.kv, XlaKVPool)
        assert isinstance(parts.sampler, XlaSampler)
        self._parts, self._kv, self._sampler = parts, parts.kv, parts.sampler
        self._programs = Programs()
        self._extras = XlaExtras(parts, self._programs)
        self._buckets = Buckets.of(parts.num_slots, parts.max_tokens or USUAL_TOKENS)
        rows, zeros = parts.num_slots + 1, parts.runtime.zeros
        self._last_tokens = zeros((rows,), torch.int64)
        self._tables = [
            zeros((rows, parts.max_pages), torch.int32) for _ in range(parts.num_groups)
        ]
        self._no_masks: dict[tuple[int, ...], Tensor] = {}

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return self._buckets.bucket(num_tokens, num_rows)

    def forward(self, batch: Batch) -> XlaForward:
        parts = self._parts
        with parts.runtime.stream():
            for admission in batch.admissions:
                parts.sampler.admit(admission)
            if batch.bucket == Bucket():
                batch = replace(batch, bucket=self.bucket(batch.num_tokens, batch.num_rows))
            layout = step_layout(batch, parts.kv.page_size, parts.num_slots, parts.max_pages)
            for group, start in excess(layout, batch):
                delta = batch.page_deltas[group]
                self._turn_pages(group, *layout.page_changes(delta, start, MORE_CHANGES))
            state = [*self._tables, *self._kv.state()]
            args = [parts.runtime.to_device(layout.pack(batch)), self._last_tokens, *state]
            hidden, logits, slots, positions, *state = self._programs.run(
                ("forward", batch.bucket, layout.has_types),
                lambda packed, last, *_: self._compute(layout, batch, packed, last),
                args,
                donated=range(2, len(args)),
            )
            self._tables = state[: parts.num_groups]
            self._kv.take(state[parts.num_groups :])
            return XlaForward(hidden, logits, slots, positions)

    def sample(
        self, forward: XlaForward, batch: Batch, mask: npt.NDArray[Any] | None = None
    ) -> Ticket[StepResult]:
        with self._parts.runtime.stream():
            sampled = self._choose(forward, batch, mask)
            extras = self._extras.launch(forward.hidden, batch)
            return fetch(self._parts.runtime, [*sampled_parts(sampled, batch), *extras])

    # The two programs of a step

    def _compute(
        self, layout: StepLayout, batch: Batch, packed: Tensor, last_tokens: Tensor
    ) -> list[Tensor]:
        """What ``forward`` launches, over the tables and K/V as they are."""
        parts, fields = self._parts, layout.split(packed)
        tables = [
            _written(table, fields[f"delta_where_{g}"].long(), fields[f"delta_pages_{g}"])
            for g, table in enumerate(self._tables)
        ]
        inputs = layout.inputs(fields, batch, last_tokens, tables)
        plan = parts.attention.plan(inputs)
        hidden = parts.model.forward(inputs, parts.attention, parts.kv, plan)
        sampling = ("logits_rows", "sample_slots", "sample_positions")
        rows, slots, positions = (fields[name].long() for name in sampling)
        logits = parts.model.logits(hidden[rows])
        return [hidden, logits, slots, positions, *tables, *self._kv.state()]

    def _choose(self, forward: XlaForward, batch: Batch, mask: npt.NDArray[Any] | None) -> Sampled:
        """Launch sampling."""
        rows, vocab_size = forward.logits.shape
        features = PLAIN if not batch.features else DRAWN if batch.features == DRAWN else ALL
        features = features if mask is None else ALL
        top = min(MAX_TOP_LOGPROBS, vocab_size) if features == ALL else 0
        shaped = replace(batch, features=features, top_logprobs=top)
        given = [forward.logits, forward.slots, forward.positions]
        args = [*given, self._last_tokens]
        if features:
            args += self._sampler.tables()
        if features == ALL:
            args += [self._sampler.counts, self._allowed(rows, vocab_size, mask)]

        def run(logits: Tensor, slots: Tensor, positions: Tensor, *more: Tensor) -> list[Tensor]:
            allowed = more[-1] if features == ALL else None
            sampled = self._sampler.sample(logits, slots, positions, shaped, allowed)
            last_tokens = more[0].index_copy(0, slots, sampled.token_ids)
            if features != ALL:
                return [last_tokens, sampled.token_ids]
            assert sampled.logprobs is not None
            assert sampled.top_ids is not None
            assert sampled.top_logprobs is not None
            chosen = [sampled.token_ids, sampled.logprobs, sampled.top_ids, sampled.top_logprobs]
            return [last_tokens, *chosen, self._sampler.counts]

        donated = (3, len(args) - 2) if features == ALL else (3,)
        key = ("sample", rows, features, self._sampler.width if features == ALL else 0)
        self._last_tokens, *got = self._programs.run(key, run, args, donated)
        if features == ALL:
            self._sampler.counts = got.pop()
        return Sampled(*got)

    def _allowed(self, rows: int, vocab_size: int, mask: npt.NDArray[Any] | None) -> Tensor:
        """A mask for every row; one that forbids nothing is kept on the device."""
        shape = (rows, -(-vocab_size // 32))
        if mask is not None:
            full = np.full(shape, -1, np.int32)
            full[: len(mask)] = mask
            return self._parts.runtime.to_device(full)
        if shape not in self._no_masks:
            none = np.full(shape, -1, np.int32)
            self._no_masks[shape] = self._parts.runtime.to_device(none)
        return self._no_masks[shape]

    # What some steps need besides

    def _turn_pages(self, group: int, where: npt.NDArray[Any], pages: npt.NDArray[Any]) -> None:
        """Page changes that have no place in a step's packed array."""
        send = self._parts.runtime.to_device
        args = [send(where.astype(np.int64)), send(pages.astype(np.int32)), self._tables[group]]
        (self._tables[group],) = self._programs.run(
            "pages", lambda at, new, table: [_written(table, at, new)], args, donated=(2,)
        )

    # Warming up

    def warmup(self, buckets: Iterable[Bucket], features: Iterable[frozenset[Feature]]) -> None:
        """Compile the closed set: every bucket, every program of sampling and of scores."""
        parts, began, wanted = self._parts, time.perf_counter(), list(features)
        slot = parts.num_slots
        with parts.runtime.stream():
            if parts.generates:
                self._warm_admission(SamplingParams(logit_bias=((0, 1.0),), frequency_penalty=1.0))
                self._warm_admission(SamplingParams())
            for group in range(parts.num_groups):
                nowhere = np.full(MORE_CHANGES, (slot + 1) * parts.max_pages - 1)
                self._turn_pages(group, nowhere, np.zeros(MORE_CHANGES))
            for bucket in dict.fromkeys([*self._buckets.all(), *buckets]):
                if bucket != Bucket():
                    self._warm(bucket, wanted)
            parts.runtime.synchronize()
        count, seconds = len(self._programs), time.perf_counter() - began
        logger.info("compiled %d programs in %.1f s", count, seconds)

    def _warm_admission(self, params: SamplingParams) -> None:
        """Into the scratch slot."""
        ids, slot = np.zeros(1, np.int32), self._parts.num_slots
        self._sampler.admit(
            Admission(slot=slot, params=params, seed=0, input_ids=ids, num_prompt_tokens=1)
        )

    def _warm(self, bucket: Bucket, wanted: Sequence[frozenset[Feature]]) -> None:
        """A step of one token in the scratch slot, padded to the bucket, sampled in every way."""
        batch = idle_batch((1,), self._parts.num_slots, self._parts.num_groups, bucket)
        forward = self.forward(batch)
        if not self._parts.generates:
            return
        self.sample(forward, batch)
        if any(wanted):
            self.sample(forward, replace(batch, features=DRAWN))
            for width in BIAS_WIDTHS:
                self._sampler.width = width
                self.sample(forward, replace(batch, features=ALL))
            self._sampler.width = BIAS_WIDTHS[0]
        one = np.zeros(1, np.int32)
        scored = replace(batch, score_tokens=one, score_targets=one, score_top=1)
        for width in WANTED_WIDTHS:
            ids = np.zeros((1, width), np.int32)
            self.sample(forward, replace(scored, wanted_tokens=one, wanted_ids=ids)).wait()


def _written(table: Tensor, where: Tensor, pages: Tensor) -> Tensor:
    """A page table with changes at places of its flat form."""
    return table.flatten().index_copy(0, where, pages).view(table.shape)
