"""Where the time of one sample went: for its reply, and for the histograms.

::

    received ── prepare ── sent ── queue ── first step ── prefill ── first token ── decode ── end
    └────────────────────────────────────── e2e ──────────────────────────────────────────────┘

The parts between ``sent`` and ``end`` are the engine's own; a sample that a stop string ended, of
which the engine does not know, has its end here. What the parts lack of ``e2e_s`` is the way back
from the engine.
"""

import time
from typing import Any

from tupelo.engine.messages import Timing
from tupelo_server.context import RequestContext
from tupelo_server.generation import Delta
from tupelo_server.metrics import Metrics


class SampleClock:
    """Times and counts what happens to one sample.

    Attributes:
        sent_s: when its request goes to the engine (``time.monotonic``): now.
    """

    def __init__(
        self, metrics: Metrics, about: RequestContext, num_prompt_tokens: int, *, streamed: bool
    ) -> None:
        """Start now. ``streamed``: whether tokens come one by one."""
        self._metrics = metrics
        self._streamed = streamed
        self._received_s = about.received_s
        self._num_prompt = num_prompt_tokens
        self._num_tokens = 0
        self._timing: Timing | None = None
        self.sent_s = self._last_s = time.monotonic()
        metrics.num_requests += 1
        metrics.num_prompt_tokens += num_prompt_tokens

    def count(self, delta: Delta) -> None:
        """Take note of a delta."""
        now = time.monotonic()
        self._timing = delta.timing or self._timing
        number = delta.completion_tokens - self._num_tokens
        metrics = self._metrics
        if number:
            if self._streamed and self._num_tokens == 0:
                metrics.time_to_first_token.observe(now - self._received_s)
            elif self._streamed:
                metrics.inter_token_latency.observe((now - self._last_s) / number, number)
            metrics.count_tokens(number)
            self._last_s, self._num_tokens = now, delta.completion_tokens
        if delta.end is not None:
            self._finish(delta, now)

    def _finish(self, delta: Delta, now: float) -> None:
        """Set the delta's ``spent``, and observe what it says."""
        metrics, timing = self._metrics, self._timing or Timing()
        decode_s = timing.decode_s or now - self.sent_s - timing.queue_s - timing.prefill_s
        spent = {
            "prepare_s": self.sent_s - self._received_s,
            "queue_s": timing.queue_s,
            "prefill_s": timing.prefill_s,
            "decode_s": decode_s,
            "e2e_s": now - self._received_s,
        }
        delta.spent = spent
        metrics.num_cached_tokens += delta.cached_tokens
        metrics.prepare_time.observe(spent["prepare_s"])
        metrics.queue_time.observe(timing.queue_s)
        metrics.prefill_time.observe(timing.prefill_s)
        metrics.decode_time.observe(decode_s)
        metrics.request_latency.observe(spent["e2e_s"])
        metrics.prompt_lengths.observe(self._num_prompt)
        metrics.output_lengths.observe(delta.completion_tokens)
        gaps = delta.completion_tokens - 1
        if gaps > 0:
            metrics.time_per_output_token.observe(decode_s / gaps)
        if not self._streamed and delta.completion_tokens:
            waited_s = spent["prepare_s"] + timing.queue_s + timing.prefill_s
            metrics.time_to_first_token.observe(waited_s)
            if gaps > 0:
                metrics.inter_token_latency.observe(decode_s / gaps, gaps)


def timing_block(delta: Delta) -> dict[str, Any]:
    """What a reply shows of a sample that has ended: seconds, and tokens from the cache."""
    assert delta.spent is not None, "only an ended sample knows where its time went"
    return {**delta.spent, "cached_tokens": delta.cached_tokens}
