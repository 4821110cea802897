"""Figures from samples: throughput, and latencies with percentiles."""

import statistics
from collections.abc import Sequence
from typing import Any

from tupelo_server.bench.client import Sample

PERCENTILES = (50, 90, 99)
_LATENCIES = (
    ("ttft_ms", "time to first token"),
    ("tpot_ms", "time a token after the first"),
    ("itl_ms", "time between chunks"),
    ("e2e_ms", "whole request"),
)


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """The figures; latencies in milliseconds. Failed requests count only as failures.

    TPOT of a request is (end of output - first chunk) / (tokens - 1).
    """
    good = [sample for sample in samples if not sample.error and sample.chunks_s]
    begin = min(sample.begin_s for sample in samples)
    duration_s = max(sample.end_s for sample in samples) - begin
    num_in = sum(sample.input_tokens for sample in good)
    num_out = sum(sample.output_tokens for sample in good)
    gaps = [b - a for s in good for a, b in zip(s.chunks_s, s.chunks_s[1:], strict=False)]
    return {
        "requests": len(samples),
        "failed": len(samples) - len(good),
        "duration_s": duration_s,
        "input_tokens": num_in,
        "output_tokens": num_out,
        "requests_per_s": len(good) / duration_s,
        "input_tokens_per_s": num_in / duration_s,
        "output_tokens_per_s": num_out / duration_s,
        "ttft_ms": _spread([s.chunks_s[0] - s.begin_s for s in good]),
        "tpot_ms": _spread(
            [
                (s.chunks_s[-1] - s.chunks_s[0]) / (s.output_tokens - 1)
                for s in good
                if s.output_tokens > 1
            ]
        ),
        "itl_ms": _spread(gaps),
        "e2e_ms": _spread([s.end_s - s.begin_s for s in good]),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of a sorted list lie, interpolated."""
    place = (len(values) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"requests      {figures['requests']:>10}  ({figures['failed']} failed)",
        f"duration      {figures['duration_s']:>10.2f} s",
        f"requests      {figures['requests_per_s']:>10.2f} /s",
        f"input tokens  {figures['input_tokens_per_s']:>10.1f} /s",
        f"output tokens {figures['output_tokens_per_s']:>10.1f} /s",
        "",
        f"{'milliseconds':<30}" + "".join(f"{h:>10}" for h in ("mean", "p50", "p90", "p99")),
    ]
    for key, text in _LATENCIES:
        cells = figures[key]
        if cells:
            row = (cells["mean"], *(cells[f"p{p}"] for p in PERCENTILES))
            lines.append(f"{text:<30}" + "".join(f"{value:>10.2f}" for value in row))
    return "\n".join(lines)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Mean and percentiles in milliseconds; nothing of nothing."""
    if not seconds:
        return {}
    values = sorted(1000 * value for value in seconds)
    return {"mean": statistics.fmean(values)} | {
        f"p{percent}": percentile(values, percent) for percent in PERCENTILES
    }
