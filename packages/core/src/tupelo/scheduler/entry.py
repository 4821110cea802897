"""One live request, as the scheduler sees it."""

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tupelo.batch import FloatArray
from tupelo.cache.lease import Lease
from tupelo.cache.radix import Namespace
from tupelo.pooling import PoolingKind
from tupelo.request import Request

Ids = npt.NDArray[np.int64]


class Phase(Enum):
    """Where a request is: WAITING -> PREFILL -> DECODE -> FINISHED; a retraction leads back to
    WAITING, a jump over forced tokens back to PREFILL."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


class Matcher(Protocol):
    """What constrains a request's tokens: its place in a grammar, which follows the tokens that are
    known on the host."""

    def accept(self, token: int) -> None:
        """Move on by one token."""
        ...

    def forced(self) -> list[int]:
        """Tokens that must follow, whatever the model computes; often none."""
        ...

    @property
    def error(self) -> str:
        """Why it cannot go on; empty while it can."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        ...


@dataclass(eq=False, slots=True)
class Entry:
    """A request with its tokens, its pages and its slot. Written by the scheduler alone.

    ::

        ids      0 ……… num_prompt ……… num_ids (known) ……… num_ids + num_pending (sampled, not yet
        seen) K/V      0 ……… num_computed (scheduled)

    Attributes:
        ids: token ids; valid up to ``num_ids``. Grows by doubling, never changed in place below
            that.
        num_prompt: tokens of the prompt.
        num_ids: tokens known on the host. num_pending: sampled by steps in flight.
        num_computed: tokens whose K/V a scheduled step computes.
        num_reported: generated tokens that have been handed out.
        epoch: rises when rows of steps in flight lose their meaning, by a retraction or a jump.
        retractions: times that it lost its pages.
        jumps: whether forced tokens are appended without being sampled.
        lease: pages, while running. slot: while running, else -1.
        stop_ids: ids that end it (its own, and the model's unless ignored).
        scored: prompt positions whose log-probability is known, from ``prompt_logprobs_from`` on.
        logprobs, tops, wanted: of generated tokens, in order; empty unless asked for. ``wanted``:
            the log-probabilities of the ids that the request names.
        pooling: which hidden states its vectors are made of; None if it generates.
        stored: whether its K/V are kept anywhere.
        vectors: what was pooled so far, in order of its tokens; (n, size) each.
        cached_tokens: prompt tokens found in the cache at first admission.
        num_waits: steps in which it waited for another request's prefix.
    """

    request: Request
    namespace: Namespace
    seed: int
    stop_ids: frozenset[int]
    max_new_tokens: int
    matcher: Matcher | None = None
    pooling: PoolingKind | None = None
    stored: bool = True
    ids: Ids = field(init=False)
    num_prompt: int = field(init=False)
    num_ids: int = field(init=False)
    num_pending: int = 0
    num_computed: int = 0
    num_reported: int = 0
    epoch: int = 0
    retractions: int = 0
    jumps: bool = False
    phase: Phase = Phase.WAITING
    lease: Lease | None = None
    slot: int = -1
    scored: int = 0
    prompt_logprobs: list[float | None] = field(default_factory=list)
    prompt_tops: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_wanted: list[list[float]] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    vectors: list[FloatArray] = field(default_factory=list)
    wanted: list[list[float]] = field(default_factory=list)
    cached_tokens: int = -1
    num_waits: int = 0
    arrived_s: float = field(default_factory=time.monotonic)
    started_s: float = 0.0
    first_token_s: float = 0.0

    def __post_init__(self) -> None:
        self.ids = np.array(self.request.input_ids, dtype=np.int64)
        self.num_prompt = self.num_ids = len(self.ids)
        if self.request.arrived_s:
            self.arrived_s = min(self.request.arrived_s, self.arrived_s)
        start = self.request.prompt_logprobs_from
        self.scored = self.num_prompt if start is None else max(start, 1)
        if start == 0:
            self.prompt_logprobs.append(None)
            if self.request.top_logprobs:
                self.prompt_tops.append([])
            if self.request.token_ids_logprob:
                self.prompt_wanted.append([])

    @property
    def rid(self) -> str:
        """The request's id."""
        return self.request.rid

    @property
    def num_generated(self) -> int:
        """Tokens generated, those of steps in flight included."""
        return self.num_ids + self.num_pending - self.num_prompt

    @property
    def whole(self) -> bool:
        """Whether its prompt is computed in one step: nothing of it is stored, or its vector is of
        all of its hidden states at once."""
        return not self.stored or self.pooling in (PoolingKind.CLS, PoolingKind.MEAN)

    @property
    def max_match(self) -> int:
        """Prompt tokens that may come from the cache: the last one, and scored ones, are computed,
        and all where the hidden state of each is wanted."""
        if self.pooling not in (None, PoolingKind.LAST):
            return 0
        limit = self.num_ids - 1
        return limit if self.scored >= self.num_prompt else min(limit, self.scored - 1)

    def append(self, token: int) -> None:
        """One more known token."""
        if self.num_ids == len(self.ids):
            room = max(16, min(len(self.ids), self.num_prompt + self.max_new_tokens - self.num_ids))
            grown = np.empty(self.num_ids + room, dtype=np.int64)
            grown[: self.num_ids] = self.ids[: self.num_ids]
            self.ids = grown
        self.ids[self.num_ids] = token
        self.num_ids += 1
