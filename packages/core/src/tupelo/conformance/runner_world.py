"""A backend's whole step driven as the engine drives it, over ``ProbeModel``, and checked."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tupelo.backend import RunnerParts, Ticket
from tupelo.batch import LAST_TOKEN, Admission, Batch, Feature, StepResult
from tupelo.conformance.case import check
from tupelo.conformance.geometry import Geometry
from tupelo.conformance.page_book import PageBook
from tupelo.conformance.probe_model import ProbeModel
from tupelo.conformance.sampler_world import log_softmax
from tupelo.conformance.target import Target
from tupelo.ops import OPS, OpTable
from tupelo.request import SamplingParams

VOCAB, NUM_SLOTS, NUM_PAGES, MAX_PAGES = 48, 5, 60, 16
TOP = 3
LOGPROB_ERROR = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 3e-1}
"""Allowed error of a log-probability: two layers and a head, values of size 1 to 10, each rounded
to the compute type several times."""

GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Run:
    """A row of a step.

    Attributes:
        ids: new prompt tokens, or None to decode from the token that the slot sampled last.
        samples: whether the row's last token gives a sample; a chunk that is not a prompt's last
            does not.
    """

    slot: int
    ids: tuple[int, ...] | None = None
    samples: bool = True


@dataclass(slots=True)
class Flight:
    """A step that was launched: its batch, a copy of it, K/V lengths, and the ticket."""

    batch: Batch
    before: Batch
    lengths: list[int]
    slots: list[int]
    ticket: Ticket[StepResult]


class RunnerWorld:
    """One runner with its parts, and what each slot's sequence is.

    Args:
        depth: steps that may be in flight.
    """

    def __init__(self, target: Target, geometry: Geometry, depth: int = 1) -> None:
        g, backend = geometry, target.backend
        self.geometry = geometry
        runtime = backend.runtime(backend.device)
        layers, kinds, stored = g.specs()
        self.model = ProbeModel(kinds, layers, VOCAB, g.dtype, runtime.device)
        in_place = not backend.capabilities.functional_kv
        self.runner = backend.runner(
            RunnerParts(
                model=self.model,
                attention=backend.attention(kinds, g.page_size, MAX_PAGES, runtime, in_place),
                kv=backend.kv_pool(stored, [NUM_PAGES] * len(stored), g.page_size, runtime),
                sampler=backend.sampler(NUM_SLOTS, VOCAB, OpTable(OPS, backend.kernels), runtime),
                runtime=runtime,
                num_slots=NUM_SLOTS,
                max_pages=MAX_PAGES,
                num_groups=len(stored),
                depth=depth,
            )
        )
        runtime.synchronize()  # steps run on a stream of their own
        self._books = [
            PageBook(NUM_SLOTS, NUM_PAGES, MAX_PAGES, g.page_size, seed=i)
            for i in range(len(stored))
        ]
        self.tokens: list[list[int]] = [[] for _ in range(NUM_SLOTS)]
        self._lengths = [0] * NUM_SLOTS
        self._params = [GREEDY] * NUM_SLOTS
        self._admissions: list[Admission] = []
        self._steps = 0

    def admit(
        self,
        slot: int,
        num_prompt_tokens: int,
        params: SamplingParams = GREEDY,
        *,
        seed: int = 0,
    ) -> tuple[int, ...]:
        """Put a new request of random tokens into a slot with the next step; returns its prompt."""
        random = np.random.default_rng(100 * slot + num_prompt_tokens)
        prompt = tuple(int(t) for t in random.integers(0, VOCAB, num_prompt_tokens))
        for book in self._books:
            book.drop(slot, reuse=True)
        self.tokens[slot], self._lengths[slot], self._params[slot] = list(prompt), 0, params
        self._admissions.append(
            Admission(
                slot=slot,
                params=params,
                seed=seed,
                input_ids=np.array(prompt, np.int32),
                num_prompt_tokens=len(prompt),
            )
        )
        return prompt

    def launch(
        self,
        *rows: Run,
        features: frozenset[Feature] = frozenset(),
        mask: npt.NDArray[np.int32] | None = None,
        score: bool = False,
        **more: Any,
    ) -> Flight:
        """Launch a step. With ``score``, all its prompt tokens but the last are scored.

        Args:
            more: fields of the batch, in place of what they would be.
        """
        batch = replace(self._batch(rows, features | {Feature.LOGPROBS}, score), **more)
        before = copy.deepcopy(batch)
        forward = self.runner.forward(batch)
        ticket = self.runner.sample(forward, batch, mask)
        sampling = [row.slot for row in rows if row.samples]
        return Flight(batch, before, [self._lengths[s] for s in sampling], sampling, ticket)

    def finish(self, flight: Flight, *, allowed: npt.NDArray[np.bool_] | None = None) -> StepResult:
        """Wait for a step, and check each row's token and log-probability against the model.

        Args:
            allowed: (samples, vocab_size), what the step's mask allowed.
        """
        result = flight.ticket.wait()
        check(flight.ticket.ready(), "a step that was waited for isn't ready")
        _check_untouched(flight)
        n = flight.batch.num_samples
        check(result.token_ids.shape == (n,), f"{result.token_ids.shape} token ids for {n} samples")
        limit = LOGPROB_ERROR[self.geometry.dtype]
        for i, (slot, length) in enumerate(zip(flight.slots, flight.lengths, strict=True)):
            token = int(result.token_ids[i])
            logits = self.model.expected_logits(self.tokens[slot][:length])[-1]
            want = log_softmax(logits)
            where = f"step {flight.batch.step}, slot {slot}, length {length}"
            assert result.logprobs is not None
            assert result.top_logprobs is not None
            got = float(result.logprobs[i])
            check(
                abs(got - want[token]) <= limit,
                f"{where}: log-probability of {token} is {got:.6g}, want {want[token]:.6g}",
            )
            best = np.sort(want)[::-1][:TOP]
            close = np.abs(result.top_logprobs[i] - best).max() <= limit
            check(bool(close), f"{where}: top {result.top_logprobs[i]}, want {best}")
            choices = np.where(allowed[i], want, -np.inf) if allowed is not None else want
            if self._params[slot] is GREEDY:
                short = choices.max() - choices[token]
                check(short <= 2 * limit, f"{where}: chose {token}, want {choices.argmax()}")
            self.tokens[slot].append(token)
        return result

    def step(self, *rows: Run, score: bool = False) -> StepResult:
        """Launch and finish."""
        return self.finish(self.launch(*rows, score=score))

    def expected_scores(self, slot: int, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Log-probability of tokens ``start + 1 … stop`` of a slot's sequence."""
        tokens = self.tokens[slot]
        logprobs = log_softmax(self.model.expected_logits(tokens[: stop + 1]))
        return np.array([logprobs[at, tokens[at + 1]] for at in range(start, stop)])

    def _batch(self, rows: Sequence[Run], features: frozenset[Feature], score: bool) -> Batch:
        starts = [self._lengths[row.slot] for row in rows]
        new = [(LAST_TOKEN,) if row.ids is None else row.ids for row in rows]
        counts = np.array([len(ids) for ids in new], np.int32)
        for row, start, ids in zip(rows, starts, new, strict=True):
            self._lengths[row.slot] = start + len(ids)
            for book in self._books:
                book.grow(row.slot, start + len(ids))
        spans = list(zip(rows, starts, counts.tolist(), strict=True))
        ends = np.cumsum(counts)
        sampling = np.array([i for i, row in enumerate(rows) if row.samples], np.int32)
        admissions, self._admissions = tuple(self._admissions), []
        self._steps += 1
        batch = Batch(
            step=self._steps,
            slots=np.array([row.slot for row in rows], np.int32),
            num_decode_rows=sum(row.ids is None for row in rows),
            cu_seqlens_q=np.concatenate(([0], ends)).astype(np.int32),
            seq_lens=(np.array(starts) + counts).astype(np.int32),
            input_ids=np.array([t for ids in new for t in ids], np.int32),
            positions=np.concatenate([np.arange(s, s + n, dtype=np.int32) for _, s, n in spans]),
            slot_mapping=tuple(
                np.concatenate([book.mapping(r.slot, s, n) for r, s, n in spans])
                for book in self._books
            ),
            page_deltas=tuple(book.delta() for book in self._books),
            admissions=admissions,
            logits_rows=(ends[sampling] - 1).astype(np.int32),
            sample_rows=sampling,
            top_logprobs=TOP,
            bucket=self.runner.bucket(int(counts.sum()), len(rows)),
            features=features,
        )
        return _with_scores(batch, new) if score else batch


def _with_scores(batch: Batch, new: Sequence[Sequence[int]]) -> Batch:
    at = [
        int(begin) + i
        for begin, ids in zip(batch.cu_seqlens_q, new, strict=False)
        for i in range(len(ids) - 1)
    ]
    targets = batch.input_ids[np.array(at) + 1]
    return replace(batch, score_tokens=np.array(at, np.int32), score_targets=targets, score_top=2)


def _check_untouched(flight: Flight) -> None:
    for name in Batch.__dataclass_fields__:
        now, then = getattr(flight.batch, name), getattr(flight.before, name)
        if isinstance(now, np.ndarray):
            check(np.array_equal(now, then), f"the runner changed batch.{name}")
        elif name == "slot_mapping":
            same = all(np.array_equal(a, b) for a, b in zip(now, then, strict=True))
            check(same, "the runner changed batch.slot_mapping")
