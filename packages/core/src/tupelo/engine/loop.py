"""The engine's loop: schedule, launch, land; up to ``depth`` steps in flight.

A step is two launches. With ``depth`` 2, step N+1 of the same requests is launched before the host
has seen
the tokens of step N; where a grammar needs these, step N lands between the two launches of step
N+1::

    depth 1   forward N  sample N  land N          forward N+1 ...
    depth 2   forward N  sample N  forward N+1  sample N+1  land N  forward N+2 ...
    grammar   forward N  sample N  forward N+1  land N  mask  sample N+1 ...

A step that is launched early shuts out requests that arrive before it begins. Where requests come
one by one, the loop therefore says how long the next launch can wait (``patience_s``): until
shortly before the step in flight is expected to end, so that the device does not idle.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tupelo.backend import Ticket
from tupelo.batch import Feature, StepResult
from tupelo.engine.executor import Executor
from tupelo.engine.grammars import GrammarQueue
from tupelo.engine.journal import StepJournal
from tupelo.engine.messages import Finish, Output, Scores, StepMark, Timing, Vectors
from tupelo.engine.steps import StepLog
from tupelo.errors import InvalidRequest, QueueFull, QueueTimeout, RequestAborted, RequestError
from tupelo.grammar import Matcher, ThinkingMatcher
from tupelo.pooling import finish as finish_vectors
from tupelo.request import FinishReason, Request
from tupelo.scheduler import Ended, Entry, Phase, Scheduler, Step, grammar_ending
from tupelo.scheduler.pace import Average

logger = logging.getLogger(__name__)

EXPECTING_S = 1.0
"""A streamed request that came this long ago, while others ran, lets another one be expected."""

LEAD_S = 0.001
"""A launch begins this long before it must, beside twice the time that it takes."""


@dataclass(slots=True)
class _Flight:
    """A step that has been launched at ``launched_s`` and not yet landed."""

    step: Step
    ticket: Ticket[StepResult]
    launched_s: float


class EngineLoop:
    """Scheduler and executor, step by step. Not thread-safe: one thread calls everything.

    Args:
        scheduler: decides. executor: computes. vocab_size: width of grammar masks.
        depth: steps in flight.
        grammars: compiles and follows grammars; None refuses requests that have one.
        check_integrity: prove the page bookkeeping after each step.
        clock: seconds that only grow.

    Attributes:
        step_number, step_started_s: of the step launched last (``time.monotonic``); 0.0 when idle.
            Written here, read by the heartbeat's thread.
        held: an operator holds the engine: steps in flight land, none is launched.
        journal: of steps that have landed, kept while somebody looks.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        vocab_size: int,
        *,
        depth: int = 1,
        grammars: GrammarQueue | None = None,
        check_integrity: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self._clock = clock
        self._arrived_s = -EXPECTING_S
        self._landed_s = 0.0
        self._was_late = False
        self._launching = Average()
        self._long_launching = Average()
        self.step_number = 0
        self.step_started_s = 0.0
        self.held = False
        self.journal = StepJournal()
        self._executor = executor
        self._mask_words = -(-vocab_size // 32)
        self._depth = depth
        self._grammars = grammars
        self._check = check_integrity
        self._flights: deque[_Flight] = deque()
        self._steps = StepLog()

    def has_work(self) -> bool:
        """Whether ``step`` has anything to do."""
        if self._grammars is not None and self._grammars.has_done():
            return True
        return bool(self._flights) or (not self.held and self.scheduler.has_work())

    def submit(self, request: Request) -> None:
        """Queue a checked request; one with a grammar first waits for that to be compiled.

        Raises:
            QueueFull: too many requests wait already. InvalidRequest: grammars are not served.
        """
        self._steps.on |= request.traced
        if request.grammar is None:
            budget = request.thinking
            self.scheduler.submit(request, None if budget is None else ThinkingMatcher(budget))
        elif self._grammars is None:
            name = request.grammar.param or request.grammar.kind
            raise InvalidRequest(f"{name}: this engine serves no grammars", param=name)
        else:
            self._grammars.submit(request)
        if self._flights and request.stream:
            self._arrived_s = self._clock()

    def abort(self, rids: Iterable[str] | None = None) -> list[Output]:
        """Drop requests; returns their last outputs."""
        chosen = None if rids is None else list(rids)
        outputs = [self._last_output(ended) for ended in self.scheduler.abort(chosen)]
        if self._grammars is not None:
            gone = self._grammars.abort(chosen)
            self.scheduler.counters.aborted += len(gone)
            outputs += [refused(r.rid, RequestAborted("aborted")) for r in gone]
        return outputs

    def patience_s(self) -> float:
        """Seconds that the next ``step`` can be put off for a request to arrive; 0.0: none.

        Where one does arrive, there is nothing more to wait for.
        """
        scheduler, now = self.scheduler, self._clock()
        beside_another = 0 < len(self._flights) < self._depth
        if self.held or not beside_another or now - self._arrived_s > EXPECTING_S:
            return 0.0
        arrived = self._grammars is not None and self._grammars.has_done()
        if arrived or scheduler.has_prompts() or not scheduler.slots.num_free:
            return 0.0
        flight = self._flights[-1]
        if flight.ticket.ready():
            return 0.0
        end = self._begun_s(flight) + scheduler.times.predicted_s(*_sizes(flight.step))
        return max(0.0, end - LEAD_S - 2 * self._launching.value - now)

    def expire(self, rids: Sequence[str]) -> list[Output]:
        """End those of these requests that no step has served yet; returns their last outputs."""
        late = [ended.entry.rid for ended in self.scheduler.abort(rids, unserved=True)]
        if self._grammars is not None:
            gone = self._grammars.abort(rids)
            self.scheduler.counters.aborted += len(gone)
            late += [request.rid for request in gone]
        error = QueueTimeout("the server is busy: the request waited too long; try again later")
        return [refused(rid, error) for rid in late]

    def step(self) -> list[Output]:
        """Launch the next step if there is room in flight, land the oldest otherwise.

        Prompts may take long to launch: tokens that are there already do not wait for it.
        """
        self.step_started_s = time.monotonic()
        try:
            outputs = self._admit_compiled()
            launched = False
            if self._lands_first():
                return outputs + self._land()
            if len(self._flights) < self._depth and not self.held:
                launched = self._launch(outputs)
            if self._flights and (not launched or len(self._flights) >= self._depth):
                outputs += self._land()
            if self._check:
                self.scheduler.check()
            return outputs
        finally:
            self.step_started_s = 0.0

    def _lands_first(self) -> bool:
        """Whether tokens are there, or soon will be, that would wait for a long launch."""
        scheduler = self.scheduler
        if not self._flights or not scheduler.has_prompts():
            return False
        flight = self._flights[0]
        if flight.ticket.ready():
            return True
        if len(self._flights) > 1 or not scheduler.slots.streamed.any():
            return False
        end = self._begun_s(flight) + scheduler.times.predicted_s(*_sizes(flight.step))
        return 2 * (end - self._clock()) < self._long_launching.value

    def drain(self) -> list[Output]:
        """Land every step in flight."""
        outputs: list[Output] = []
        while self._flights:
            outputs += self._land()
        return outputs

    def _launch(self, outputs: list[Output]) -> bool:
        """Schedule and launch a step; appends what landed meanwhile. False if nothing could run."""
        began = self._clock()
        step = self.scheduler.schedule()
        if step is None:
            return False
        batch = step.batch
        self.step_number = batch.step
        batch.bucket = self._executor.bucket(batch.num_tokens, batch.num_rows)
        try:
            forward = self._executor.forward(batch)
            masked = Feature.MASK in batch.features
            if masked:
                while self._flights:
                    outputs += self._land()
            mask = self._mask(step, outputs) if masked else None
            ticket = self._executor.sample(forward, batch, mask)
        except Exception:
            logger.exception("step %d failed; its %d requests end", batch.step, batch.num_rows)
            outputs += self._fail(step)
            return True
        self._flights.append(_Flight(step, ticket, began))
        average = self._long_launching if step.chunks else self._launching
        average.add(self._clock() - began)
        return True

    def _land(self) -> list[Output]:
        """Wait for the oldest step in flight, and take in its result."""
        flight = self._flights.popleft()
        late = flight.ticket.ready()
        try:
            result = flight.ticket.wait()
        except Exception:
            logger.exception("step %d failed while it ran", flight.step.batch.step)
            return self._fail(flight.step)
        now, begun_s = self._clock(), self._begun_s(flight)
        sizes = _sizes(flight.step)
        self.scheduler.times.observe(*sizes, now - begun_s)
        self.journal.note(flight.step.batch.step, begun_s, now, sizes)
        if self._steps.on:
            self._steps.note(flight.step, begun_s, now)
        self._landed_s, self._was_late = now, late
        rows, ended = self.scheduler.commit(flight.step, result)
        last = {id(item.entry): item for item in ended}
        outputs = [
            _output(row.entry)
            for row in rows
            if row.entry.request.stream and id(row.entry) not in last
        ]
        return outputs + [self._last_output(item) for item in ended]

    def _begun_s(self, flight: _Flight) -> float:
        """When the oldest step in flight began: when the one before it ended, as far as that is
        known. One that had ended before anybody looked tells nothing."""
        return flight.launched_s if self._was_late else max(flight.launched_s, self._landed_s)

    def _fail(self, step: Step) -> list[Output]:
        return [self._last_output(ended) for ended in self.scheduler.fail(step)]

    def _admit_compiled(self) -> list[Output]:
        """Queue the requests whose grammars are ready; returns the last outputs of the others."""
        outputs = []
        for item in self._grammars.take() if self._grammars is not None else ():
            if isinstance(item.outcome, RequestError):
                outputs.append(refused(item.request.rid, item.outcome))
                continue
            try:
                entry = self.scheduler.submit(item.request, item.outcome)
                entry.arrived_s = item.arrived_s
            except QueueFull as error:
                outputs.append(refused(item.request.rid, error))
        return outputs

    def _mask(self, step: Step, outputs: list[Output]) -> npt.NDArray[np.int32]:
        """Bitmask of the step's sampling rows; rows without a grammar allow everything.

        Requests whose grammar turns out to have ended, or to have failed, end; what is sampled for
        them is surplus.
        """
        mask = np.full((len(step.rows), self._mask_words), -1, np.int32)
        rows: list[tuple[Matcher, int]] = []
        thinking: list[tuple[ThinkingMatcher, int]] = []
        live: list[tuple[Entry, int]] = []
        for index, row in enumerate(step.rows):
            matcher, entry = row.entry.matcher, row.entry
            void = entry.phase is Phase.FINISHED or entry.epoch != row.epoch
            if matcher is None or void:
                continue
            live.append((entry, index))
            if isinstance(matcher, ThinkingMatcher):
                thinking.append((matcher, index))
                matcher = matcher.inner
            if isinstance(matcher, Matcher):
                rows.append((matcher, index))
        if rows:
            assert self._grammars is not None
            self._grammars.compiler.fill(rows, mask)
        for budgeted, index in thinking:
            budgeted.narrow(mask[index])
        ended = []
        for entry, index in live:
            end = grammar_ending(entry)
            if end is not None:
                mask[index] = -1
                ended.append(end)
        self.scheduler.end(ended)
        outputs += [self._last_output(item) for item in ended]
        return mask

    def _last_output(self, ended: Ended) -> Output:
        entry = ended.entry
        finish = Finish(reason=ended.reason, matched=ended.matched)
        if ended.reason is FinishReason.ABORT:
            finish = Finish(reason=ended.reason, message="aborted", status=499, code="aborted")
        elif ended.reason is FinishReason.ERROR and ended.message:
            finish = Finish(
                reason=ended.reason,
                message=f"the grammar cannot be followed any further: {ended.message}",
                status=InvalidRequest.status,
                code="grammar_failed",
            )
        elif ended.reason is FinishReason.ERROR:
            finish = Finish(
                reason=ended.reason,
                message="the step that computed this request failed; see the server's log",
                status=500,
                code="internal_error",
            )
        steps = self._steps.take(entry) if self._steps.on else []
        return _output(entry, finish, _timing(entry, time.monotonic(), steps))


def _timing(entry: Entry, now: float, steps: Sequence[StepMark] = ()) -> Timing:
    first = entry.first_token_s or now
    started = entry.started_s or first
    return Timing(
        queue_s=started - entry.arrived_s,
        prefill_s=first - started,
        decode_s=now - first,
        steps=list(steps),
    )


def refused(rid: str, error: RequestError) -> Output:
    """The only output of a request that is not served."""
    aborted = isinstance(error, RequestAborted)
    finish = Finish(
        reason=FinishReason.ABORT if aborted else FinishReason.ERROR,
        message=str(error),
        status=error.status,
        code=error.code or "",
        param=error.param or "",
    )
    return Output(rid=rid, token_ids=[], finish=finish)


def _sizes(step: Step) -> tuple[int, int]:
    """Decode rows and prompt tokens."""
    rows = step.batch.num_decode_rows
    return rows, step.batch.num_tokens - rows


def _output(entry: Entry, finish: Finish | None = None, timing: Timing | None = None) -> Output:
    """What has not been reported of an entry yet."""
    start = entry.num_prompt + entry.num_reported
    token_ids = entry.ids[start : entry.num_ids].tolist()
    scores = prompt_scores = None
    if entry.request.logprobs and token_ids:
        reported = entry.num_reported
        scores = Scores(entry.logprobs[reported:], entry.tops[reported:], entry.wanted[reported:])
    if entry.request.prompt_logprobs_from is not None and entry.num_reported == 0:
        prompt_scores = Scores(entry.prompt_logprobs, entry.prompt_tops, entry.prompt_wanted)
    if timing is None and entry.num_reported == 0:
        timing = _timing(entry, entry.first_token_s)
    vectors = _vectors(entry) if finish is not None and finish.status == 200 else None
    entry.num_reported += len(token_ids)
    return Output(
        rid=entry.rid,
        token_ids=token_ids,
        finish=finish,
        cached_tokens=max(0, entry.cached_tokens),
        scores=scores,
        prompt_scores=prompt_scores,
        retractions=entry.retractions,
        timing=timing,
        vectors=vectors,
    )


def _vectors(entry: Entry) -> Vectors | None:
    """What was pooled of an entry that is done, as it was asked for."""
    params = entry.request.pooling
    if params is None:
        return None
    made = finish_vectors(np.concatenate(entry.vectors), params)
    return Vectors(rows=len(made), size=made.shape[1], data=made.tobytes())
