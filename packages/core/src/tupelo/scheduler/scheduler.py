"""Which requests, which pages, which tokens: the decisions of a step.

``schedule`` forms a step out of running and waiting requests; ``commit`` takes in its result.
Between the two, up to ``depth - 1`` further steps may be scheduled, whose decode rows continue
with tokens that only the device knows. Nothing here knows a device, text or HTTP.
"""

import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tupelo.batch import Admission, Feature, IntArray, StepResult
from tupelo.cache.prefix_cache import PrefixCache
from tupelo.cache.radix import Namespace
from tupelo.errors import QueueFull
from tupelo.request import FinishReason, Request
from tupelo.scheduler.admission import GrowthEstimate
from tupelo.scheduler.builder import Chunk, Row, Step, build_step
from tupelo.scheduler.config import Counters, SchedulerConfig
from tupelo.scheduler.entry import Entry, Matcher, Phase
from tupelo.scheduler.grouping import PrefixGrouper
from tupelo.scheduler.jump import jump_forward
from tupelo.scheduler.pace import StepTimes
from tupelo.scheduler.policy import make_policy
from tupelo.scheduler.pooled import add_pooling
from tupelo.scheduler.results import Ended, record_result
from tupelo.scheduler.slots import SlotTable

STARVED = 16
"""However long a step takes, it has room for this part of ``chunk_tokens``."""

LONGER = 2
"""Where many wait, a step may take so many times ``step_s``: what they wait for is room, and longer
steps make more of it."""

MANY, RUN_FOR_EACH = 8, 4
"""Many wait: more than so many, and more than one for so many that run."""

MAX_SCANNED = 256
"""Waiting requests that one step looks at."""


class Scheduler:
    """All live requests, their pages and their slots.

    Attributes:
        times: of steps; whoever runs them tells it.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.cache = PrefixCache(
            config.groups,
            config.page_size,
            enabled=config.radix and bool(config.groups),
            eviction=config.eviction,
        )
        max_pages = -(-config.context_length // config.page_size) + 1
        self.slots = SlotTable(config.max_running, len(config.groups), config.page_size, max_pages)
        self.counters = Counters()
        self.times = StepTimes()
        self._order = make_policy(config.policy, config.seed)
        self._seeds = random.Random(config.seed)
        self._estimate = GrowthEstimate()
        self._live: dict[str, Entry] = {}
        self._waiting: list[Entry] = []
        self._prefilling: list[Entry] = []
        self._windowed = any(group.window is not None for group in config.groups)
        self._grouper = PrefixGrouper(self.slots, config.groups, config.prefix_group_tokens)

    @property
    def num_waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests with a slot."""
        return self.config.max_running - self.slots.num_free

    def live(self) -> Iterator[Entry]:
        """Every request that has not ended, oldest first, to be looked at only."""
        return iter(self._live.values())

    def has_work(self) -> bool:
        """Whether a call of ``schedule`` may form a step."""
        return bool(self._waiting or self._prefilling or self.slots.decoding.any())

    def has_prompts(self) -> bool:
        """Whether the next step may compute prompts of requests that are here."""
        return bool(self._waiting or self._prefilling)

    # Arriving and leaving

    def submit(self, request: Request, matcher: Matcher | None = None) -> Entry:
        """Queue a request that has been checked against the vocabulary and the context.

        Raises:
            QueueFull: ``max_queued`` requests wait already.
        """
        config = self.config
        if len(self._waiting) >= config.max_queued + self.slots.num_free:
            raise QueueFull(
                f"{len(self._waiting)} requests wait already; the limit is {config.max_queued}. "
                "Try again later"
            )
        assert request.rid not in self._live, "request ids are the server's own, and unique"
        params = request.params
        assert params.max_new_tokens is not None
        stops = set(params.stop_token_ids)
        if not params.ignore_eos:
            stops.update(config.eos_token_ids)
        entry = Entry(
            request=request,
            namespace=Namespace(request.salt, request.adapter),
            seed=self._seeds.getrandbits(62) if params.seed is None else params.seed,
            stop_ids=frozenset(stops),
            max_new_tokens=params.max_new_tokens,
            matcher=matcher,
            # Forced tokens are neither scored nor counted for penalties.
            jumps=config.jump_forward and not request.logprobs and not params.penalised,
            pooling=config.heads[request.pooling.head] if request.pooling else None,
            stored=bool(config.groups),
        )
        self._live[request.rid] = entry
        self._waiting.append(entry)
        return entry

    def abort(self, rids: Iterable[str] | None = None, *, unserved: bool = False) -> list[Ended]:
        """Drop these requests, or every one; unknown ids are ignored, as are, with ``unserved``,
        those that had a step."""
        chosen = list(self._live) if rids is None else [r for r in rids if r in self._live]
        chosen = [r for r in chosen if not (unserved and self._live[r].started_s)]
        ended = [Ended(self._live[rid], FinishReason.ABORT) for rid in chosen]
        for item in ended:
            self._finish(item.entry)
        self.counters.aborted += len(ended)
        return ended

    def retract_all(self) -> int:
        """Take slot and pages from every running request; each waits again, with the tokens that
        it has, in the order in which they came. Returns how many. No step may be in flight."""
        running = sorted(self.slots.running(), key=lambda entry: entry.arrived_s)
        for entry in reversed(running):
            self._requeue(entry)
        return len(running)

    # One step

    def schedule(self) -> Step | None:
        """Form the next step; None if nothing can run now."""
        decode = self._decode_slots()
        budget = self._budget(decode)
        chunks: list[Chunk] = []
        admissions: list[Admission] = []
        for entry in list(self._prefilling):
            budget -= self._add_chunk(entry, budget, chunks)
        if budget > 0:
            self._admit(budget, chunks, admissions)
        if not len(decode) and not chunks:
            self._break_deadlock()
            return None
        decode, groups = self._grouper.arrange(decode)
        self.counters.steps += 1
        step = build_step(self.counters.steps, self.slots, decode, chunks, admissions, groups)
        if self.config.heads:
            add_pooling(step, chunks, token_types=self.config.token_types)
        self._advance(decode, chunks)
        return step

    def commit(self, step: Step, result: StepResult) -> tuple[list[Row], list[Ended]]:
        """Take in a step's result.

        Returns:
            The rows that got a token (surplus tokens of requests that ended or were retracted
            meanwhile are dropped), and the requests that ended with it.
        """
        rows, ended = record_result(step, result)
        for item in ended:
            self._finish(item.entry)
        self.counters.finished += len(ended)
        self.counters.decode_tokens += len(rows)
        if Feature.MASK in step.batch.features:
            jumps = jump_forward([row.entry for row in rows], self.slots)
            self._prefilling[:0] = jumps.entries  # before other prompts: these generate already
            self.counters.forced_tokens += jumps.num_tokens
            self.end(jumps.ended)
            ended += jumps.ended
        self._publish_generated([row.entry for row in rows])
        return rows, ended

    def end(self, ended: Sequence[Ended]) -> None:
        """End requests for a reason that is not found here."""
        for item in ended:
            self._finish(item.entry)
        self.counters.finished += len(ended)

    def fail(self, step: Step) -> list[Ended]:
        """A step broke: every request in it ends, and pages that it was to compute leave the
        cache."""
        slots = step.batch.slots.tolist()
        starts = (step.batch.seq_lens - np.diff(step.batch.cu_seqlens_q)).tolist()
        broken = []
        for slot, start in zip(slots, starts, strict=True):
            entry = self.slots.entries[slot]
            if entry is not None and entry.lease is not None and not entry.lease.lost:
                broken.append(entry)
                entry.num_computed = min(entry.num_computed, start)
                lost = self.cache.withdraw(entry.lease, start)
                broken += [e for e in self.slots.running() if e.lease in lost]
        ended = [Ended(entry, FinishReason.ERROR) for entry in dict.fromkeys(broken)]
        for item in ended:
            self._finish(item.entry)
        return ended

    def check(self) -> None:
        """Prove the page bookkeeping.

        Raises:
            AssertionError: says what differs.
        """
        self.cache.check([e.lease for e in self.slots.running() if e.lease is not None])

    def _budget(self, decode: IntArray) -> int:
        """Prompt tokens of the next step. Where a streamed request decodes, as many as a step of
        ``step_s`` holds, so that its reader does not wait, or ``LONGER`` where many wait; but never
        so few that prompts starve."""
        config = self.config
        most = config.chunk_tokens or config.context_length
        if not config.step_s or not self.slots.streamed[decode].any():
            return most
        many_wait = self.num_waiting > max(MANY, self.num_running / RUN_FOR_EACH)
        bound_s = config.step_s * (LONGER if many_wait else 1)
        within = self.times.prompt_tokens_within(len(decode), bound_s)
        return most if within is None else min(most, max(within, most // STARVED))

    # Decode rows

    def _decode_slots(self) -> IntArray:
        """Slots that decode in this step, each with a page for its token; retracts if pages run
        out."""
        table = self.slots
        while True:
            slots = np.flatnonzero(table.decoding).astype(np.int32)
            lengths = table.length[slots]
            growing = [
                entry
                for slot in slots[lengths % self.config.page_size == 0].tolist()
                if (entry := table.entries[slot]) is not None
            ]
            leases = [entry.lease for entry in growing if entry.lease is not None]
            if self._windowed:
                for lease, entry in zip(leases, growing, strict=True):
                    # Steps in flight may still be withdrawn, with what they read.
                    self.cache.release_window(
                        lease, int(table.length[entry.slot]) - entry.num_pending
                    )
            wanted = [int(table.length[entry.slot]) + 1 for entry in growing]
            if self.cache.extend_many(leases, wanted):
                break
            self._retract(self._victim())
        for entry in growing:
            table.sync_pages(entry)
        return slots

    def _victim(self) -> Entry:
        """Who loses its pages: still in its prompt before generating, then fewest generated tokens,
        then the longest prompt, as SGLang has it."""
        running = self.slots.running()
        return min(
            running,
            key=lambda e: (e.phase is not Phase.PREFILL, e.num_generated, -e.num_prompt),
        )

    def _retract(self, entry: Entry) -> None:
        """Back to the head of the queue, with the tokens known so far; the rest is computed
        again."""
        self._estimate.raise_after_retraction()
        self._requeue(entry)

    def _requeue(self, entry: Entry) -> None:
        self.counters.retractions += 1
        self._release(entry)
        entry.epoch += 1
        entry.retractions += 1
        entry.phase = Phase.WAITING
        entry.num_computed = entry.num_pending = 0
        entry.vectors.clear()
        start = entry.request.prompt_logprobs_from
        if start is not None:
            known = len(entry.prompt_logprobs) - (start == 0)
            entry.scored = max(start, 1) + known
        self._waiting.insert(0, entry)

    # Prompts

    def _add_chunk(self, entry: Entry, budget: int, chunks: list[Chunk]) -> int:
        """Put the next part of a running prompt into the step; returns its tokens, 0 if it must
        wait."""
        assert entry.lease is not None
        start = entry.num_computed
        if start == entry.lease.num_pages * self.config.page_size:  # nothing of its own further on
            gained = self.cache.rematch(
                entry.lease, entry.ids[: entry.num_ids], max_tokens=entry.max_match
            )
            start = entry.num_computed = start + gained
            self.counters.cached_tokens += gained
            if gained:
                self.slots.sync_pages(entry)
            if self._should_wait(entry, start):
                return 0
        stop = min(entry.num_ids, start + budget)
        if stop < entry.num_ids and entry.whole:  # with others or alone, but not in parts
            stop = start if chunks else entry.num_ids
        elif stop < entry.num_ids:  # on a page boundary, others' pages can be adopted next
            aligned = stop - stop % self.config.page_size
            stop = aligned if aligned > start else stop
        if stop <= start:
            return 0
        if self._windowed:
            self.cache.release_window(entry.lease, start)
        if not self.cache.extend(entry.lease, stop):
            return 0
        self.slots.sync_pages(entry)
        entry.num_computed = stop
        chunks.append(Chunk(entry, start, stop))
        if self.config.same_step_sharing:
            self.cache.publish(entry.lease, entry.ids[: entry.num_ids], stop)
        return stop - start

    def _should_wait(self, entry: Entry, matched: int) -> bool:
        """Whether another live request is about to compute what this one needs next."""
        frontier = self.cache.owner_of_next_page(
            entry.namespace, entry.ids[: entry.max_match], matched, waiter=entry.lease
        )
        if frontier is None or frontier.owner is entry.lease:
            return False
        worth = frontier.shared_tokens >= self.config.worth_waiting_tokens
        entry.num_waits += worth
        self.counters.waits += worth
        return worth

    def _admit(self, budget: int, chunks: list[Chunk], admissions: list[Admission]) -> None:
        """Start waiting requests, in the policy's order, while slots, pages and the budget last."""
        if not self._waiting or not self.slots.num_free:
            return
        started: set[int] = set()
        reserved = self._reserved_pages()
        for entry in self._order(self._waiting, self.cache)[:MAX_SCANNED]:
            if budget <= 0 or not self.slots.num_free:
                break
            ids = entry.ids[: entry.num_ids]
            matched = self.cache.match_length(entry.namespace, ids, max_tokens=entry.max_match)
            if self._should_wait(entry, matched):
                continue
            needed = self._pages_wanted(entry, entry.num_ids - matched)
            if self.num_running and reserved + needed > self._available_pages():
                break
            reserved += self._pages_wanted(entry, 0)
            admissions.append(self._start(entry))
            started.add(id(entry))
            budget -= self._add_chunk(entry, budget, chunks)
        if started:
            self._waiting = [e for e in self._waiting if id(e) not in started]

    def _available_pages(self) -> int:
        """Pages that can be had now in every group."""
        groups = range(len(self.config.groups))
        return min((self.cache.num_available(g) for g in groups), default=sys.maxsize)

    def _reserved_pages(self) -> int:
        """Pages that the running requests will likely still take."""
        return sum(
            self._pages_wanted(e, e.num_ids - e.num_computed if e.phase is Phase.PREFILL else 0)
            for e in self.slots.running()
        )

    def _pages_wanted(self, entry: Entry, prompt_tokens: int) -> int:
        """Pages for ``prompt_tokens`` more of its prompt and for what it will likely generate."""
        growth = self._estimate.tokens(entry.max_new_tokens - entry.num_generated)
        size = self.config.page_size
        return -(-prompt_tokens // size) + -(-growth // size)

    def _start(self, entry: Entry) -> Admission:
        """Give a waiting request a slot and the pages of its cached prefix."""
        ids = entry.ids[: entry.num_ids]
        entry.lease = self.cache.open(entry.namespace, ids, max_tokens=entry.max_match)
        entry.num_computed = entry.lease.num_cached_tokens
        self.counters.cached_tokens += entry.num_computed
        if entry.cached_tokens < 0:
            entry.cached_tokens = min(entry.num_computed, entry.num_prompt)
        slot = self.slots.take(entry)
        self.slots.sync_pages(entry)
        self.cache.claim(entry.lease, ids, entry.num_ids)
        entry.phase = Phase.PREFILL
        entry.started_s = entry.started_s or time.monotonic()
        self._prefilling.append(entry)
        return Admission(
            slot=slot,
            params=entry.request.params,
            seed=entry.seed,
            input_ids=ids.astype(np.int32),
            num_prompt_tokens=entry.num_prompt,
            stop_ids=tuple(sorted(entry.stop_ids)),
        )

    def _break_deadlock(self) -> None:
        """Nothing could run, and no step in flight will free a page: take the youngest prompt's."""
        in_flight = any(entry.num_pending for entry in self.slots.running())
        if len(self._prefilling) > 1 and not in_flight:
            self._retract(self._prefilling[-1])

    # Book-keeping

    def _advance(self, decode: IntArray, chunks: Sequence[Chunk]) -> None:
        """Move every row past the step that was just formed."""
        table = self.slots
        table.length[decode] += 1
        table.left[decode] -= 1
        for slot in decode.tolist():
            entry = table.entries[slot]
            assert entry is not None
            entry.num_pending += 1
            entry.num_computed += 1
        table.decoding[decode] = table.left[decode] > 0
        self._estimate.decay()
        for chunk in chunks:
            entry = chunk.entry
            assert entry.lease is not None
            self.counters.prefill_tokens += chunk.stop - chunk.start
            table.length[entry.slot] = chunk.stop
            if not self.config.same_step_sharing:
                self.cache.publish(entry.lease, entry.ids[: entry.num_ids], chunk.stop)
            if chunk.stop == entry.num_ids:
                self._end_prompt(chunk)

    def _end_prompt(self, chunk: Chunk) -> None:
        entry = chunk.entry
        assert entry.lease is not None
        self._prefilling.remove(entry)
        self.cache.unclaim(entry.lease)
        entry.phase = Phase.DECODE
        if chunk.samples:
            entry.num_pending += 1
            self.slots.left[entry.slot] -= 1
            self.slots.decoding[entry.slot] = self.slots.left[entry.slot] > 0

    def _publish_generated(self, entries: Iterable[Entry]) -> None:
        """Pages that generated tokens filled enter the tree once these tokens are known."""
        size = self.config.page_size
        for entry in entries:
            if entry.lease is None or entry.num_ids % size > 1:
                continue
            known = min(entry.num_ids, entry.num_computed)
            if known // size > entry.lease.num_published:
                self.cache.publish(entry.lease, entry.ids[: entry.num_ids], known)

    def _finish(self, entry: Entry) -> None:
        if entry.lease is not None and not entry.lease.lost:
            known = min(entry.num_ids, entry.num_computed)
            self.cache.publish(entry.lease, entry.ids[: entry.num_ids], known)
        self._release(entry)
        entry.phase = Phase.FINISHED
        if entry in self._waiting:
            self._waiting.remove(entry)
        del self._live[entry.rid]

    def _release(self, entry: Entry) -> None:
        """Give back slot and pages."""
        if entry.lease is not None:
            self.cache.close(entry.lease)
            entry.lease = None
        if entry.slot >= 0:
            self.slots.give_back(entry)
        if entry.phase is Phase.PREFILL:
            self._prefilling.remove(entry)
