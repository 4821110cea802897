"""From the engine's tokens to the text of one sample: one code path, streamed or not.

A ``Job`` is one prompt with all that was asked of it; it has ``params.n`` samples. A
``SampleStream`` turns one sample's outputs into ``Delta`` records; ``Delta.add`` folds them up
again. An unstreamed reply is the folded stream, so the two cannot differ.
"""

import hashlib
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tupelo.engine.messages import Output, Scores, Timing, Vectors
from tupelo.errors import RequestError
from tupelo.pooling import PoolingParams
from tupelo.request import FinishReason, Grammar, Request, SamplingParams
from tupelo.text.output import TextStream, TokenPieces
from tupelo.text.tokenizer import Tokenizer
from tupelo.text.tools.events import Event
from tupelo.thinking import ThinkingBudget
from tupelo_server.parsing import ParsedStream, Parsing, stops_early
from tupelo_server.rows import Row, RowQueue, rows_of

if TYPE_CHECKING:
    from tupelo_server.sessions import Turn


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids, and the text they were made of where there was one."""

    ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One prompt and what is asked of it; see ``tupelo.request.Request`` for the fields' meaning.

    Attributes:
        rid: the id that its client sees and may abort it by.
        stream: whether text is wanted as it comes.
        stream_interval: tokens of a ``Delta`` at least, but for the last.
        logged: whether it may stand in the request log.
        timed: whether its reply tells where the time went, whatever the request's headers say.
        parsing: what is to be found in the outputs; None leaves them text.
        pooling: what is to be made of the prompt, where nothing is generated.
        turn: its place in a session.
    """

    prompt: Prompt
    params: SamplingParams
    rid: str
    stream: bool = False
    stream_interval: int = 1
    salt: str = ""
    priority: int = 0
    logprobs: bool = False
    top_logprobs: int = 0
    token_ids_logprob: tuple[int, ...] = ()
    prompt_logprobs_from: int | None = None
    grammar: Grammar | None = None
    thinking: ThinkingBudget | None = None
    logged: bool = True
    timed: bool = False
    parsing: Parsing | None = None
    pooling: PoolingParams | None = None
    turn: "Turn | None" = None

    def requests(self) -> list[Request]:
        """A request for each sample, without an id. Sample i uses ``derived_seed(seed, i)``.

        Tokens come one by one where somebody reads along, or where the text may end them.
        """
        request = Request(
            rid="",
            input_ids=self.prompt.ids,
            params=self.params,
            salt=self.salt,
            priority=self.priority,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
            token_ids_logprob=self.token_ids_logprob,
            prompt_logprobs_from=self.prompt_logprobs_from,
            stream=self.stream or stops_early(self.params, self.parsing),
            grammar=self.grammar,
            thinking=self.thinking,
            pooling=self.pooling,
        )
        seed = self.params.seed
        return [
            replace(
                request,
                params=replace(
                    self.params, n=1, seed=None if seed is None else derived_seed(seed, i)
                ),
            )
            for i in range(self.params.n)
        ]


def derived_seed(seed: int, sample: int) -> int:
    """The seed of sample number ``sample``: the first keeps ``seed``, others get a hash of both.

    So n samples differ from each other, a repeated request gets them again, and the first of n is
    the one that n=1 gives.
    """
    if sample == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclass(frozen=True, slots=True)
class End:
    """How a sample ended. ``matched``: the stop string or stop token id that did it."""

    reason: FinishReason
    matched: str | int | None = None
    message: str = ""


@dataclass(slots=True)
class Delta:
    """What is new of one sample. The counts are totals so far.

    Attributes:
        index: of the sample among all of its HTTP request.
        rows: of tokens whose text has been given out; they may lag behind ``token_ids``.
        events: what the text was parsed into, where that was asked for.
        prompt_rows: once, where the prompt's log-probabilities were asked for.
        end: set in the sample's last delta.
        timing: the engine's, with the first token and with the end.
        spent: in the last delta, where the time went; see ``timing.py``.
        vectors: what was pooled, in the only delta of such a job.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    prompt_rows: list[Row] | None = None
    end: End | None = None
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    retractions: int = 0
    timing: Timing | None = None
    spent: dict[str, float] | None = None
    vectors: Vectors | None = None

    def add(self, newer: "Delta") -> None:
        """Append what followed."""
        self.text += newer.text
        self.token_ids += newer.token_ids
        self.rows += newer.rows
        self.events += newer.events
        if newer.prompt_rows is not None:
            self.prompt_rows = newer.prompt_rows
        self.end = newer.end
        self.completion_tokens = newer.completion_tokens
        self.reasoning_tokens = newer.reasoning_tokens
        self.cached_tokens = newer.cached_tokens
        self.retractions = newer.retractions
        self.timing = newer.timing or self.timing
        self.spent = newer.spent


class SampleStream:
    """Turns one sample's outputs into deltas. One task at a time."""

    def __init__(self, job: Job, index: int, tokenizer: Tokenizer) -> None:
        params = job.params
        self._job = job
        self._index = index
        self._tokenizer = tokenizer
        self._shown_ids = job.parsing.shown_ids if job.parsing is not None else frozenset[int]()
        stream = TextStream(
            tokenizer,
            stop=params.stop,
            stop_regex=params.stop_regex,
            no_stop_trim=params.no_stop_trim,
            prompt_ids=job.prompt.ids,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
            min_new_tokens=params.min_new_tokens,
            shown_ids=self._shown_ids,
        )
        self._parsed = ParsedStream(stream, job.parsing) if job.parsing is not None else None
        self._stream = self._parsed or stream
        self._rows: RowQueue | None = None
        if job.logprobs:
            self._rows = RowQueue(self._pieces(job.prompt.ids))
        self._interval = job.stream_interval if job.stream else sys.maxsize
        self._num_chars = 0
        self._num_tokens = 0
        self._cached_tokens = 0

    async def deltas(self, outputs: AsyncGenerator[Output, None]) -> AsyncGenerator[Delta, None]:
        """Deltas of ``outputs``, the last one with its ``end``.

        ``outputs`` is closed at the end, which aborts the request if the engine still works on it.

        Raises:
            RequestError: the engine could not serve the request.
        """
        pending: Delta | None = None
        async with aclosing(outputs):
            async for output in outputs:
                delta = self._take(output)
                if pending is None:
                    pending = delta
                else:
                    pending.add(delta)
                if pending.end is not None:
                    break
                if len(pending.token_ids) >= self._interval:
                    yield pending
                    pending = None
        assert pending is not None, "the last output of a request has its finish"
        yield pending

    def _take(self, output: Output) -> Delta:
        finish = output.finish
        if finish is not None and (
            finish.reason is FinishReason.ERROR
            or (finish.reason is FinishReason.ABORT and finish.status not in (200, 499))
        ):
            error = RequestError(
                finish.message, param=finish.param or None, code=finish.code or None
            )
            error.status = finish.status if finish.status >= 400 else 500
            raise error
        ids = output.token_ids
        num_shown = len(ids) - self._stopper(output)
        found = self._stream.push(ids[:num_shown])
        text, end = found.text, None
        if found.matched_stop is not None:
            end = End(FinishReason.STOP, found.matched_stop)
            num_shown = found.num_tokens
            ids = ids[:num_shown]
        elif self._parsed is not None and self._parsed.over:
            end = End(FinishReason.STOP)
            num_shown = found.num_tokens
            ids = ids[:num_shown]
        elif finish is not None:
            end = End(finish.reason, finish.matched, finish.message)
            text += self._stream.finish()
            if self._stream.matched_stop is not None:
                end = End(FinishReason.STOP, self._stream.matched_stop)
        delta = self._delta(output, ids, text, end)
        if self._parsed is not None:
            delta.events = self._parsed.events(last=end is not None)
            delta.reasoning_tokens = self._parsed.reasoning_tokens
        if self._rows is not None:
            if output.scores is not None:
                self._rows.push(ids, output.scores, num_shown)
            delta.rows = self._rows.take(self._num_chars, last=end is not None)
        return delta

    def _delta(self, output: Output, ids: list[int], text: str, end: End | None) -> Delta:
        self._num_tokens += len(ids)
        self._num_chars += len(text)
        self._cached_tokens = max(self._cached_tokens, output.cached_tokens)
        scores = output.prompt_scores
        return Delta(
            self._index,
            text=text,
            token_ids=ids,
            prompt_rows=None if scores is None else self._prompt_rows(scores),
            end=end,
            completion_tokens=self._num_tokens,
            cached_tokens=self._cached_tokens,
            retractions=output.retractions,
            timing=output.timing,
            vectors=output.vectors,
        )

    def _stopper(self, output: Output) -> int:
        """1 if the last id is a stop token that is no part of the text, else 0."""
        finish, ids = output.finish, output.token_ids
        ended = finish is not None and finish.reason is FinishReason.STOP
        if not ended or not ids or self._job.params.no_stop_trim:
            return 0
        assert finish is not None
        return int(finish.matched == ids[-1])

    def _prompt_rows(self, scores: Scores) -> list[Row]:
        start = self._job.prompt_logprobs_from or 0
        ids = self._job.prompt.ids
        return rows_of(ids[start:], self._pieces(()).push(ids)[start:], scores)

    def _pieces(self, prompt_ids: tuple[int, ...]) -> TokenPieces:
        return TokenPieces(
            self._tokenizer,
            prompt_ids=prompt_ids,
            skip_special_tokens=self._job.params.skip_special_tokens,
            shown_ids=self._shown_ids,
        )
