"""What the server counts, and how Prometheus reads it.

The counters are plain numbers that the event loop alone changes, so that counting costs next to
nothing a token; they become Prometheus families when somebody asks. Names that SGLang's
dashboards expect have its prefix, Tupelo's own have ``tupelo:``.
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tupelo_server.generation import Delta

_THROUGHPUT_WINDOW_S = 10
_LATENCIES_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0
)  # fmt: skip
_COUNTERS = frozenset(
    {
        "steps", "prefill_tokens", "cached_tokens", "decode_tokens", "retractions", "finished",
        "aborted", "waits", "lookup_tokens", "hit_tokens", "pages_evicted", "messages_dropped",
    }
)  # fmt: skip
"""Of the engine's numbers those that only grow."""


class Histogram:
    """Counts in buckets; one observation may stand for several."""

    def __init__(self, bounds: Sequence[float] = _LATENCIES_S) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def family(self, name: str, text: str, labels: Mapping[str, str]) -> Metric:
        """The histogram as Prometheus reads it: cumulative counts."""
        total, buckets = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        family = HistogramMetricFamily(name, text, labels=list(labels))
        family.add_metric(list(labels.values()), buckets, sum_value=self._sum)
        return family


class Metrics(Collector):
    """All counters of one server."""

    def __init__(self) -> None:
        self.model_name = ""
        self.num_requests = 0
        self.num_aborted = 0
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_cached_tokens = 0
        self.time_to_first_token = Histogram()
        self.inter_token_latency = Histogram()
        self.request_latency = Histogram()
        self.queue_time = Histogram()
        self._engine: Mapping[str, Any] = {}
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_THROUGHPUT_WINDOW_S + 2)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count_tokens(self, number: int) -> None:
        """Tokens that were just generated."""
        self.num_generated_tokens += number
        now = int(time.monotonic())
        if self._seconds and self._seconds[-1][0] == now:
            number += self._seconds.pop()[1]
        self._seconds.append((now, number))

    def render(self, engine_stats: Mapping[str, Any]) -> bytes:
        """The text of ``/metrics``, with the engine's own numbers."""
        self._engine = engine_stats
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every family; called by the registry."""
        labels = {"model_name": self.model_name}
        counters = {
            "sglang:num_requests": (self.num_requests, "samples asked for"),
            "sglang:num_aborted_requests": (self.num_aborted, "samples that ended in an abort"),
            "sglang:prompt_tokens": (self.num_prompt_tokens, "prompt tokens received"),
            "sglang:generation_tokens": (self.num_generated_tokens, "tokens generated"),
            "sglang:cached_tokens": (self.num_cached_tokens, "prompt tokens from the cache"),
        }
        for name, (number, text) in counters.items():
            yield _counter(name, text, number, labels)
        rate = self.num_cached_tokens / max(self.num_prompt_tokens, 1)
        yield _gauge("sglang:cache_hit_rate", "share of prompt tokens from the cache", rate, labels)
        yield _gauge(
            "sglang:gen_throughput", "tokens generated a second", self._throughput(), labels
        )
        for name, histogram, text in (
            ("time_to_first_token", self.time_to_first_token, "arrival to first token"),
            ("inter_token_latency", self.inter_token_latency, "one token to the next"),
            ("e2e_request_latency", self.request_latency, "arrival to end"),
            ("queue_time", self.queue_time, "arrival in the engine to first step"),
        ):
            yield histogram.family(f"sglang:{name}_seconds", f"seconds, {text}", labels)
        for name, value, text in _usual_gauges(self._engine):
            yield _gauge(name, text, value, labels)
        yield from _engine_families(self._engine, labels)

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are known when collected."""
        return iter(())

    def _throughput(self) -> float:
        now = int(time.monotonic())
        recent = [
            number for second, number in self._seconds if now - second <= _THROUGHPUT_WINDOW_S
        ]
        return sum(recent) / _THROUGHPUT_WINDOW_S


class SampleClock:
    """Counts what happens to one sample."""

    def __init__(self, metrics: Metrics, num_prompt_tokens: int, *, streamed: bool) -> None:
        """Start now."""
        self._metrics = metrics
        self._streamed = streamed
        self._begin = self._last = time.monotonic()
        self._num_tokens = 0
        metrics.num_requests += 1
        metrics.num_prompt_tokens += num_prompt_tokens

    def count(self, delta: Delta) -> None:
        """Take note of a delta."""
        now = time.monotonic()
        number = delta.completion_tokens - self._num_tokens
        metrics = self._metrics
        if number and self._streamed:
            if self._num_tokens == 0:
                metrics.time_to_first_token.observe(now - self._begin)
            else:
                metrics.inter_token_latency.observe((now - self._last) / number, number)
        if number:
            metrics.count_tokens(number)
            self._last, self._num_tokens = now, delta.completion_tokens
        if delta.end is not None:
            metrics.num_cached_tokens += delta.cached_tokens
            metrics.request_latency.observe(now - self._begin)
            if delta.timing is not None:
                self._count_timing(delta)

    def _count_timing(self, delta: Delta) -> None:
        assert delta.timing is not None
        metrics, timing = self._metrics, delta.timing
        metrics.queue_time.observe(timing.queue_s)
        if not self._streamed and delta.completion_tokens:
            metrics.time_to_first_token.observe(timing.queue_s + timing.prefill_s)
            gaps = delta.completion_tokens - 1
            if gaps:
                metrics.inter_token_latency.observe(timing.decode_s / gaps, gaps)


def _usual_gauges(stats: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """What SGLang's dashboards show of an engine."""
    if "num_running" not in stats:
        return
    total, owned = sum(stats["pages_total"]), sum(stats["pages_owned"])
    size = stats["page_size"]
    yield "sglang:num_running_reqs", stats["num_running"], "requests that run"
    yield "sglang:num_queue_reqs", stats["num_waiting"], "requests that wait"
    yield "sglang:max_total_num_tokens", total * size, "tokens that the K/V pool holds"
    yield "sglang:num_used_tokens", owned * size, "tokens that running requests hold"
    yield "sglang:token_usage", owned / max(total, 1), "share of the pool that they hold"
    yield "sglang:num_retracted_reqs", stats["retractions"], "requests taken back, so far"


def _engine_families(stats: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Metric]:
    """Every number of the engine as a ``tupelo:`` family; lists have an entry a page group."""
    for key, value in stats.items():
        kind = CounterMetricFamily if key in _COUNTERS else GaugeMetricFamily
        text = f"the engine's {key.replace('_', ' ')}"
        if isinstance(value, list):
            family = kind(f"tupelo:{key}", text, labels=[*labels, "group"])
            for group, number in enumerate(value):
                family.add_metric([*labels.values(), str(group)], number)
        else:
            family = kind(f"tupelo:{key}", text, labels=list(labels))
            family.add_metric(list(labels.values()), value)
        yield family


def _counter(name: str, text: str, value: float, labels: Mapping[str, str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _gauge(name: str, text: str, value: float, labels: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
