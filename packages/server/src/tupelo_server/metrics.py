"""What the server counts, and how Prometheus reads it.

The counters are plain numbers that the event loop alone changes, so that counting costs next to
nothing a token; they become Prometheus families when somebody asks. ``metric_names`` declares them.
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

from tupelo_server.metric_names import ENGINE, RANK, SCHEDULER, SERVER, Family
from tupelo_server.traffic import Traffic

_THROUGHPUT_WINDOW_S = 10
LATENCIES_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0
)  # fmt: skip
_TOKENS = tuple(float(1 << power) for power in range(4, 18))
_RANK = {"engine_type": "unified", "tp_rank": "0", "pp_rank": "0", "dp_rank": "0"}

Labelled = Mapping[tuple[str, ...], float]
"""A value for each tuple of label values."""


class Histogram:
    """Counts in buckets; one observation may stand for several."""

    def __init__(self, bounds: Sequence[float] = LATENCIES_S) -> None:
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
    """All counters of one model, and of the server's HTTP traffic."""

    def __init__(
        self,
        *,
        first_token_bounds: Sequence[float] = (),
        inter_token_bounds: Sequence[float] = (),
        latency_bounds: Sequence[float] = (),
        traffic: Traffic | None = None,
    ) -> None:
        """Count nothing yet. Bounds are of three histograms, where others are wanted.

        ``traffic``: the server's, which outlives its models.
        """
        self._bounds = {
            "first_token_bounds": first_token_bounds,
            "inter_token_bounds": inter_token_bounds,
            "latency_bounds": latency_bounds,
        }
        self.model_name = ""
        self.traffic = traffic or Traffic()
        self.num_requests = 0
        self.num_aborted = 0
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_cached_tokens = 0
        self.time_to_first_token = Histogram(first_token_bounds or LATENCIES_S)
        self.inter_token_latency = Histogram(inter_token_bounds or LATENCIES_S)
        self.time_per_output_token = Histogram()
        self.request_latency = Histogram(latency_bounds or LATENCIES_S)
        self.queue_time = Histogram()
        self.prepare_time = Histogram()
        self.prefill_time = Histogram()
        self.decode_time = Histogram()
        self.prompt_lengths = Histogram(_TOKENS)
        self.output_lengths = Histogram(_TOKENS)
        self._engine: Mapping[str, Any] = {}
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_THROUGHPUT_WINDOW_S + 2)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def anew(self) -> "Metrics":
        """Those for another model of the same server."""
        return Metrics(**self._bounds, traffic=self.traffic)

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
        histograms, values = self._histograms(), self._values()
        for name, family in SERVER.items():
            if family.kind == "histogram":
                yield histograms[name].family(name, family.help, {"model_name": self.model_name})
            elif name in values:
                yield self._family(name, family, values[name])
        for name, value in _scheduler_values(self._engine).items():
            yield self._family(name, SCHEDULER[name], value)
        for key, value in self._engine.items():
            name = f"tupelo:{key}"
            if name not in SERVER:
                unknown = Family("gauge", f"the engine's {key.replace('_', ' ')}")
                yield self._family(name, ENGINE.get(key, unknown), value)

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are known when collected."""
        return iter(())

    def _histograms(self) -> dict[str, Histogram]:
        return {
            "sglang:time_to_first_token_seconds": self.time_to_first_token,
            "sglang:inter_token_latency_seconds": self.inter_token_latency,
            "sglang:time_per_output_token_seconds": self.time_per_output_token,
            "sglang:e2e_request_latency_seconds": self.request_latency,
            "sglang:queue_time_seconds": self.queue_time,
            "tupelo:prepare_time_seconds": self.prepare_time,
            "tupelo:prefill_time_seconds": self.prefill_time,
            "tupelo:decode_time_seconds": self.decode_time,
            "sglang:prompt_tokens_histogram": self.prompt_lengths,
            "sglang:generation_tokens_histogram": self.output_lengths,
        }

    def _values(self) -> dict[str, float | Labelled]:
        """Counters and gauges of the server."""
        return {
            "sglang:num_requests": self.num_requests,
            "sglang:num_aborted_requests": self.num_aborted,
            "sglang:prompt_tokens": self.num_prompt_tokens,
            "sglang:generation_tokens": self.num_generated_tokens,
            "sglang:cached_tokens": self.num_cached_tokens,
            "sglang:cache_hit_rate": self.num_cached_tokens / max(self.num_prompt_tokens, 1),
            "sglang:gen_throughput": self._throughput(),
            "sglang:http_requests": self.traffic.requests,
            "sglang:http_requests_active": self.traffic.active,
            "sglang:http_responses": self.traffic.responses,
            **{name: self._engine[key] for name, key in _SENT if key in self._engine},
        }

    def _family(
        self, name: str, family: Family, value: float | Sequence[float] | Labelled
    ) -> Metric:
        """A counter or gauge; a sequence has an entry a page group."""
        kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        if isinstance(value, Mapping):
            found = kind(name, family.help, labels=list(family.labels))
            for labels, number in value.items():
                found.add_metric(list(labels), number)
            return found
        fixed = [self.model_name, *(_RANK.values() if family.labels == RANK else ())]
        names = list(RANK if family.labels == RANK else ("model_name",))
        if isinstance(value, Sequence):
            found = kind(name, family.help, labels=[*names, "group"])
            for group, number in enumerate(value):
                found.add_metric([*fixed, str(group)], number)
            return found
        found = kind(name, family.help, labels=names)
        found.add_metric(fixed, value)
        return found

    def _throughput(self) -> float:
        now = int(time.monotonic())
        recent = [
            number for second, number in self._seconds if now - second <= _THROUGHPUT_WINDOW_S
        ]
        return sum(recent) / _THROUGHPUT_WINDOW_S


_SENT = [(name, name.removeprefix("tupelo:")) for name in SERVER if name.startswith("tupelo:")]


def _scheduler_values(stats: Mapping[str, Any]) -> dict[str, float]:
    """What SGLang's dashboards show of an engine; nothing while it does not answer."""
    if "num_running" not in stats:
        return {}
    total, owned = sum(stats["pages_total"]), sum(stats["pages_owned"])
    size = stats["page_size"]
    live = stats["num_running"] + stats["num_waiting"]
    return {
        "sglang:num_running_reqs": stats["num_running"],
        "sglang:num_queue_reqs": stats["num_waiting"],
        "sglang:num_paused_reqs": live if stats.get("paused") else 0,
        "sglang:num_grammar_queue_reqs": stats.get("num_grammar_waiting", 0),
        "sglang:max_total_num_tokens": total * size,
        "sglang:num_used_tokens": owned * size,
        "sglang:token_usage": owned / max(total, 1),
        "sglang:num_retracted_reqs": stats["retractions"],
        "sglang:evicted_tokens": sum(stats.get("pages_evicted", [])) * size,
    }
