"""The record of one step: what the scheduler hands to every rank, and what comes back.

A ``Batch`` is numpy arrays and small tuples, no tensors; it is built by the scheduler in arrays of
``Runtime.host_array``, read by the backend's ``Runner``, and never changed after submission. Rows
are
requests, decode rows first; tokens are the concatenation of the rows' new tokens::

    rows      r0 r1 | r2            r3            decode | prefill chunks
    tokens    t0 t1 | t2 t3 t4 t5   t6 t7 t8
    cu_seqlens_q = [0, 1, 2, 6, 9]

A request's device-resident state (last token, page tables, sampling parameters, penalty counts)
lives in its *slot*; the batch names slots and carries changes only.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tupelo.request import SamplingParams

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

LAST_TOKEN = -1
"""An input id meaning: the token that this slot sampled last, which only the device may know."""

NO_SLOT_MAPPING = -1
"""A slot_mapping entry of a padding token: its K/V are not stored."""


class Feature(StrEnum):
    """What a step needs beyond greedy decoding; a closed set, so that graphs can be kept per
    set."""

    SAMPLING = "sampling"
    PENALTIES = "penalties"
    BIAS = "bias"
    LOGPROBS = "logprobs"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Padded sizes of a step: what a captured graph or a compiled program is keyed by.

    ``(0, 0)`` means unpadded: the step runs at its own size.
    """

    tokens: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Admission:
    """A request taking a slot: everything about it that the device keeps.

    Attributes:
        slot: the slot it takes.
        params: its sampling parameters.
        seed: its own, or the one drawn for it.
        input_ids: prompt and, after a retraction, the tokens generated before it.
        num_prompt_tokens: how many of ``input_ids`` are prompt (penalties tell them apart).
        stop_ids: ids that are suppressed until ``min_new_tokens`` are generated.
    """

    slot: int
    params: SamplingParams
    seed: int
    input_ids: IntArray
    num_prompt_tokens: int
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PageDelta:
    """Page-table changes of one page group: ``table[slots[i], indices[i]] = pages[i]``."""

    slots: IntArray
    indices: IntArray
    pages: IntArray


@dataclass(frozen=True, slots=True)
class PoolGroup:
    """Vectors that a step makes through one head: output i is what the head makes of the mean of
    the last hidden states of its tokens.

    Attributes:
        head: name of the model's head; "" is its usual one.
        tokens: (n,) token indices, those of one output side by side.
        lengths: (num_outputs,) how many of them belong to each output, 1 or more; their sum is n.
    """

    head: str
    tokens: IntArray
    lengths: IntArray


@dataclass(frozen=True, slots=True)
class PrefixGroups:
    """Decode rows whose first tokens lie in the same pages, so that these may be read once.

    Groups are runs of adjacent rows from row 0 on; rows after the last group are in none::

        rows            r0 r1 r2 | r3 r4 | r5 r6
        row_starts      0          3       5
        shared_tokens   64         2048

    Attributes:
        row_starts: (num_groups + 1,) the first row of each group, then the end of the last.
        shared_tokens: (num_groups,) tokens that a group's rows share: whole pages, which are the
            same in every page group without a window; fewer than any of its rows has.
    """

    row_starts: IntArray
    shared_tokens: IntArray

    @property
    def num_groups(self) -> int:
        """Groups."""
        return len(self.shared_tokens)


@dataclass(kw_only=True, slots=True)
class Batch:
    """One step over some requests.

    Attributes:
        step: number of the step, rising by one.
        slots: (num_rows,) the slot of each row.
        num_decode_rows: the first rows, with one new token each.
        cu_seqlens_q: (num_rows + 1,) token offsets of the rows.
        seq_lens: (num_rows,) K/V length of each row once the step has run; upper bounds where
            ``lens_exact`` is False.
        input_ids: (num_tokens,) ids, or ``LAST_TOKEN``.
        positions: (num_tokens,) position of each token in its sequence.
        slot_mapping: per page group (num_tokens,): ``page * page_size + offset`` where the token's
            K/V go.
        page_deltas: per page group, the changes to apply before the step.
        admissions: requests that take a slot with this step, applied before the step.
        logits_rows: (num_samples,) token index of each row that samples, ascending; a chunk that
            does not end its prompt samples nothing.
        sample_rows: (num_samples,) the row of each of them.
        top_logprobs: largest number of alternatives that any sampling row wants.
        score_tokens: (num_scores,) token indices whose next prompt token is to be scored.
        score_targets: (num_scores,) that next token's id.
        score_top: alternatives to report at each scored position.
        wanted_tokens: (num_wanted,) token indices at which the log-probabilities of given ids, as
            the next token, are wanted. wanted_ids: (num_wanted, k) these ids, filled up with 0.
        pooled: vectors to make of hidden states, a group for each head.
        token_types: (num_tokens,) segment of each token, for models that tell a pair of texts
            apart; empty where the model has none.
        bucket: padded sizes, chosen by the engine through ``Runner.bucket``.
        features: what the sampling rows need.
        lens_exact: whether ``seq_lens`` are exact.
        prefix_groups: decode rows that share a prefix; None where the backend does not ask for
            them, or nothing is worth it.
    """

    step: int
    slots: IntArray
    num_decode_rows: int
    cu_seqlens_q: IntArray
    seq_lens: IntArray
    input_ids: IntArray
    positions: IntArray
    slot_mapping: tuple[IntArray, ...]
    page_deltas: tuple[PageDelta, ...]
    logits_rows: IntArray
    sample_rows: IntArray
    admissions: tuple[Admission, ...] = ()
    top_logprobs: int = 0
    score_tokens: IntArray = field(default_factory=lambda: np.empty(0, np.int32))
    score_targets: IntArray = field(default_factory=lambda: np.empty(0, np.int32))
    score_top: int = 0
    wanted_tokens: IntArray = field(default_factory=lambda: np.empty(0, np.int32))
    wanted_ids: IntArray = field(default_factory=lambda: np.empty((0, 0), np.int32))
    pooled: tuple[PoolGroup, ...] = ()
    token_types: IntArray = field(default_factory=lambda: np.empty(0, np.int32))
    bucket: Bucket = Bucket()
    features: frozenset[Feature] = frozenset()
    lens_exact: bool = True
    prefix_groups: PrefixGroups | None = None

    @property
    def num_rows(self) -> int:
        """Requests in the step."""
        return len(self.slots)

    @property
    def num_tokens(self) -> int:
        """New tokens in the step."""
        return len(self.input_ids)

    @property
    def num_samples(self) -> int:
        """Rows that sample a token."""
        return len(self.logits_rows)


@dataclass(kw_only=True, slots=True)
class StepResult:
    """What a step produced, on the host.

    Attributes:
        token_ids: (num_samples,) sampled ids, in the order of ``Batch.logits_rows``.
        logprobs: (num_samples,) log-probability of each sampled id before temperature and filters
            (but after nothing else: the model's own distribution); None unless asked for.
        top_ids, top_logprobs: (num_samples, k) most probable ids; None unless asked for.
        score_logprobs: (num_scores,) log-probability of each ``score_targets`` entry.
        score_top_ids, score_top_logprobs: (num_scores, k).
        wanted_logprobs: (num_wanted, k) log-probabilities of ``Batch.wanted_ids``.
        pooled: for each group of ``Batch.pooled`` (num_outputs, size of its head).
    """

    token_ids: IntArray
    logprobs: FloatArray | None = None
    top_ids: IntArray | None = None
    top_logprobs: FloatArray | None = None
    score_logprobs: FloatArray | None = None
    score_top_ids: IntArray | None = None
    score_top_logprobs: FloatArray | None = None
    wanted_logprobs: FloatArray | None = None
    pooled: tuple[FloatArray, ...] = ()
