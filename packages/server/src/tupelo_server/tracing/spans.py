"""The spans of one HTTP request. Imports opentelemetry: loaded only where traces are wanted.

::

    POST /v1/chat/completions ─────────────────────────────────────────────
      render, tokenize
                 chat MODEL ───────────────────────────────────────── (each sample)
                   queue  prefill ── decode ─────────────────────────
                            events: steps     stream, or detokenize

All times are of one monotonic clock, so that a clock that jumps cannot put them out of order.
Attributes of models' spans are those of the semantic conventions for generative AI
(``gen_ai.*``), what these have no name for is ``tupelo.*``. None holds text of prompt or output.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from tupelo.engine.messages import StepMark, Timing
from tupelo.errors import RequestError
from tupelo_server.generation import Delta, Job
from tupelo_server.tracing.hooks import RequestTrace, SampleTrace
from tupelo_server.tracing.w3c import Parent

MAX_SAMPLES = 32
"""Samples of one HTTP request that have spans."""

Attributes = dict[str, AttributeValue]


def remote(parent: Parent | None) -> Context:
    """The context of a span that a request comes from; an empty one where there is none."""
    if parent is None:
        return Context()
    span = trace.SpanContext(
        parent.trace_id,
        parent.span_id,
        is_remote=True,
        trace_flags=trace.TraceFlags(parent.flags),
        trace_state=trace.TraceState(list(parent.state)),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(span), Context())


class HttpTrace(RequestTrace):
    """The spans of an HTTP request. ``recording`` is false where nobody wants them."""

    def __init__(self, tracer: Tracer, method: str, route: str, parent: Parent | None) -> None:
        self._tracer = tracer
        self._route = route
        self._origin_s, self._origin_ns = time.monotonic(), time.time_ns()
        self._num_samples = 0
        self._span = tracer.start_span(
            f"{method} {route}",
            remote(parent),
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": route},
            start_time=self._origin_ns,
        )
        self.recording = self._span.is_recording()
        self._context = trace.set_span_in_context(self._span, Context())

    def ns(self, at_s: float) -> int:
        """Nanoseconds since 1970 at a moment of ``time.monotonic``."""
        return self._origin_ns + round((at_s - self._origin_s) * 1e9)

    def start(self, name: str, at_s: float, within: Context | None = None) -> Span:
        """A span that began then, of the HTTP request or ``within`` another one."""
        return self._tracer.start_span(name, within or self._context, start_time=self.ns(at_s))

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        span = self.start(name, time.monotonic())
        try:
            yield
        except BaseException as error:
            fail(span, type(error).__name__)
            raise
        finally:
            span.end(self.ns(time.monotonic()))

    def sample(self, job: Job, model: str, sent_s: float) -> "Sample | None":
        self._num_samples += 1
        if self._num_samples > MAX_SAMPLES:
            return None
        return Sample(self, job, operation_of(self._route, job), model, sent_s)

    def end(self, status: int) -> None:
        self._span.set_attribute("tupelo.samples", self._num_samples)
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if status >= 500 or not status:
            fail(self._span, str(status) if status else "client_gone")
        self._span.end(self.ns(time.monotonic()))


class Sample(SampleTrace):
    """One sample: its spans are made when it ends, of the times that were noted."""

    def __init__(
        self, request: HttpTrace, job: Job, operation: str, model: str, sent_s: float
    ) -> None:
        self._request = request
        self._job = job
        self._operation = operation
        self._model = model
        self._sent_s = sent_s
        self._first_s = 0.0
        self._num_deltas = 0
        self._timing: Timing | None = None
        self._last: Delta | None = None

    def add(self, delta: Delta) -> None:
        if not self._num_deltas:
            self._first_s = time.monotonic()
        self._num_deltas += 1
        self._timing = delta.timing or self._timing
        self._last = delta

    def end(self, error: RequestError | None) -> None:
        now = time.monotonic()
        request = self._request
        span = request.start(f"{self._operation} {self._model}", self._sent_s)
        span.set_attributes(self._asked())
        within = trace.set_span_in_context(span, Context())
        if self._timing is not None:
            self._engine_spans(self._timing, within, now)
        if self._last is not None:
            span.set_attributes(self._answered(self._last))
        if error is not None:
            fail(span, error.code or str(error.status))
        span.end(request.ns(now))

    def _engine_spans(self, timing: Timing, within: Context, now: float) -> None:
        """The parts of its time; see ``Timing``. One that a stop string ended has no end there."""
        num_tokens = self._last.completion_tokens if self._last is not None else 0
        started_s = min(self._sent_s + timing.queue_s, now)
        first_s = min(started_s + timing.prefill_s, now)
        end_s = min(first_s + timing.decode_s, now) if timing.decode_s else now
        steps = [(mark, self._sent_s + mark.begin_s) for mark in timing.steps]
        before = [mark.end_s <= timing.queue_s + timing.prefill_s for mark, _ in steps]
        self._part("queue", self._sent_s, started_s, within)
        if timing.prefill_s:
            found = [step for step, is_before in zip(steps, before, strict=True) if is_before]
            self._part("prefill", started_s, first_s, within, found)
        if num_tokens and end_s > first_s:
            found = [step for step, is_before in zip(steps, before, strict=True) if not is_before]
            self._part("decode", first_s, end_s, within, found)
        if self._job.stream:
            self._part("stream", self._first_s, now, within)
        else:
            self._part("detokenize", end_s if num_tokens else first_s, now, within)

    def _part(
        self,
        name: str,
        begin_s: float,
        end_s: float,
        within: Context,
        steps: Sequence[tuple[StepMark, float]] = (),
    ) -> None:
        """A span with an event for each of ``steps``, of which the beginning is given."""
        request = self._request
        span = request.start(name, begin_s, within)
        for mark, at_s in steps:
            at_ns = request.ns(min(max(at_s, begin_s), end_s))
            span.add_event("steps" if mark.count > 1 else "step", step_attributes(mark), at_ns)
        if steps:
            span.set_attribute("tupelo.steps", sum(mark.count for mark, _ in steps))
        if name == "stream":
            span.set_attribute("tupelo.deltas", self._num_deltas)
        span.end(request.ns(end_s))

    def _asked(self) -> Attributes:
        job, params = self._job, self._job.params
        found: Attributes = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": "tupelo",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.id": job.rid,
            "gen_ai.usage.input_tokens": len(job.prompt.ids),
        }
        if job.pooling is None:
            found |= {
                "gen_ai.request.stream": job.stream,
                "gen_ai.request.choice.count": params.n,
                "gen_ai.request.temperature": float(params.temperature),
                "gen_ai.request.top_p": float(params.top_p),
                "gen_ai.request.frequency_penalty": float(params.frequency_penalty),
                "gen_ai.request.presence_penalty": float(params.presence_penalty),
            }
            if params.top_k > 0:
                found["gen_ai.request.top_k"] = params.top_k
            if params.max_new_tokens is not None:
                found["gen_ai.request.max_tokens"] = params.max_new_tokens
            if params.seed is not None:
                found["gen_ai.request.seed"] = params.seed
        return found

    def _answered(self, last: Delta) -> Attributes:
        found: Attributes = {
            "gen_ai.usage.output_tokens": last.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": last.cached_tokens,
            "tupelo.retractions": last.retractions,
        }
        if last.reasoning_tokens:
            found["gen_ai.usage.reasoning.output_tokens"] = last.reasoning_tokens
        if last.end is not None:
            found["gen_ai.response.finish_reasons"] = [last.end.reason.value]
        if self._job.stream:
            found["gen_ai.response.time_to_first_chunk"] = self._first_s - self._sent_s
        return found


def operation_of(route: str, job: Job) -> str:
    """The conventions' name for what a route does with a model."""
    if job.pooling is not None:
        return "embeddings"
    talks = ("/chat", "/messages", "/responses")
    return "chat" if any(word in route for word in talks) else "text_completion"


def step_attributes(mark: StepMark) -> Attributes:
    """What an event tells of consecutive steps."""
    return {
        "tupelo.step.first": mark.first,
        "tupelo.step.count": mark.count,
        "tupelo.step.seconds": mark.end_s - mark.begin_s,
        "tupelo.step.prompt_tokens": mark.prompt_tokens,
        "tupelo.step.tokens": mark.tokens,
        "tupelo.step.batch_rows": mark.rows,
    }


def fail(span: Span, kind: str) -> None:
    """Mark a span as failed: by a kind alone, for messages may quote what was sent."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))
