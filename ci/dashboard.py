"""Writes examples/monitoring/dashboard.json, for Grafana: ``python ci/dashboard.py``.

A panel is a title, a unit and its queries; where it stands and how it looks follows.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).resolve().parent.parent / "examples" / "monitoring" / "dashboard.json"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HERE = '{instance=~"$instance",model_name=~"$model_name"}'
_SERVER = '{instance=~"$instance"}'
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3

_CACHED, _PROMPTS = "sglang:cached_tokens_total", "sglang:prompt_tokens_total"


class Panel(NamedTuple):
    """One panel: pairs of legend and query; ``unit`` is one of Grafana's."""

    title: str
    unit: str
    queries: list[tuple[str, str]]


def _quantiles(metric: str) -> list[tuple[str, str]]:
    bucket = f"sum by (le) (rate({metric}_bucket{_HERE}[$__rate_interval]))"
    rates = [f"sum(rate({metric}_{part}{_HERE}[$__rate_interval]))" for part in ("sum", "count")]
    return [
        *((f"p{int(q * 100)}", f"histogram_quantile({q}, {bucket})") for q in (0.5, 0.9, 0.99)),
        ("mean", f"{rates[0]} / {rates[1]}"),
    ]


def _rate(metric: str, labels: str = _HERE) -> str:
    return f"sum(rate({metric}{labels}[$__rate_interval]))"


def _mean(metric: str) -> str:
    return f"{_rate(metric + '_sum')} / {_rate(metric + '_count')}"


_PARTS = [
    ("prepare", "tupelo:prepare_time_seconds"),
    ("queue", "sglang:queue_time_seconds"),
    ("prefill", "tupelo:prefill_time_seconds"),
    ("decode", "tupelo:decode_time_seconds"),
]

ROWS: dict[str, list[Panel]] = {
    "Latency": [
        Panel("Time to first token", "s", _quantiles("sglang:time_to_first_token_seconds")),
        Panel("Between tokens", "s", _quantiles("sglang:inter_token_latency_seconds")),
        Panel("Arrival to end", "s", _quantiles("sglang:e2e_request_latency_seconds")),
        Panel("Queue", "s", _quantiles("sglang:queue_time_seconds")),
        Panel("Where the time goes, mean", "s", [(part, _mean(name)) for part, name in _PARTS]),
        Panel(
            "Mean time of a token after the first",
            "s",
            _quantiles("sglang:time_per_output_token_seconds"),
        ),
    ],
    "Load": [
        Panel(
            "Requests",
            "short",
            [
                ("running", f"sum(sglang:num_running_reqs{_HERE})"),
                ("waiting", f"sum(sglang:num_queue_reqs{_HERE})"),
                ("compiling a grammar", f"sum(sglang:num_grammar_queue_reqs{_HERE})"),
                ("paused", f"sum(sglang:num_paused_reqs{_HERE})"),
            ],
        ),
        Panel(
            "Tokens a second",
            "short",
            [
                ("generated", _rate("sglang:generation_tokens_total")),
                ("of prompts", _rate(_PROMPTS)),
                ("of prompts, computed", _rate("tupelo:prefill_tokens_total")),
                ("generated, of the last 10 s", f"sum(sglang:gen_throughput{_HERE})"),
            ],
        ),
        Panel(
            "Requests a second",
            "reqps",
            [
                ("asked", _rate("sglang:num_requests_total")),
                ("aborted or failed", _rate("sglang:num_aborted_requests_total")),
            ],
        ),
        Panel(
            "HTTP replies a second, by status",
            "reqps",
            [
                (
                    "{{status_code}}",
                    "sum by (status_code) "
                    f"(rate(sglang:http_responses_total{_SERVER}[$__rate_interval]))",
                ),
            ],
        ),
        Panel(
            "HTTP requests, by route",
            "short",
            [
                (
                    "{{endpoint}}, open",
                    f"sum by (endpoint) (sglang:http_requests_active{_SERVER})",
                ),
                (
                    "{{endpoint}}, a second",
                    "sum by (endpoint) "
                    f"(rate(sglang:http_requests_total{_SERVER}[$__rate_interval]))",
                ),
            ],
        ),
        Panel(
            "Lengths in tokens, median",
            "short",
            [
                (name, _quantiles(f"sglang:{metric}_tokens_histogram")[0][1])
                for name, metric in (("prompt", "prompt"), ("output", "generation"))
            ],
        ),
    ],
    "Memory and cache": [
        Panel(
            "K/V pool in use",
            "percentunit",
            [("of running requests", f"avg(sglang:token_usage{_HERE})")],
        ),
        Panel(
            "K/V pool in tokens",
            "short",
            [
                ("all", f"sum(sglang:max_total_num_tokens{_HERE})"),
                ("of running requests", f"sum(sglang:num_used_tokens{_HERE})"),
            ],
        ),
        Panel(
            "Pages",
            "short",
            [
                ("free", f"sum(tupelo:pages_free{_HERE})"),
                ("owned", f"sum(tupelo:pages_owned{_HERE})"),
                ("cached", f"sum(tupelo:pages_cached{_HERE})"),
            ],
        ),
        Panel(
            "Prompt tokens from the cache",
            "percentunit",
            [
                ("share", f"{_rate(_CACHED)} / {_rate(_PROMPTS)}"),
                ("share since the start", f"avg(sglang:cache_hit_rate{_HERE})"),
            ],
        ),
        Panel(
            "Pressure, a second",
            "short",
            [
                ("retractions", _rate("tupelo:retractions_total")),
                ("tokens evicted", _rate("sglang:evicted_tokens_total")),
                ("waits for another's prefix", _rate("tupelo:waits_total")),
            ],
        ),
        Panel(
            "Health",
            "short",
            [
                ("engine up", f"min(tupelo:engine_up{_HERE})"),
                ("builds after ready", f"sum(tupelo:builds_after_ready_total{_HERE})"),
                ("messages dropped", f"sum(tupelo:messages_dropped_total{_HERE})"),
            ],
        ),
    ],
}


def render() -> str:
    """The dashboard as JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(_row(title, top, len(panels) + 1))
        top += 1
        for number, panel in enumerate(row):
            x, y = number % _COLUMNS * _WIDTH, top + number // _COLUMNS * _HEIGHT
            panels.append(_panel(panel, x, y, len(panels) + 1))
        top += -(-len(row) // _COLUMNS) * _HEIGHT
    board = {
        "title": "Tupelo",
        "uid": "tupelo",
        "schemaVersion": 39,
        "tags": ["tupelo"],
        "time": {"from": "now-30m", "to": "now"},
        "refresh": "10s",
        "editable": True,
        "templating": {"list": [_source_choice(), _choice("instance"), _choice("model_name")]},
        "panels": panels,
    }
    return json.dumps(board, indent=1) + "\n"


def _row(title: str, y: int, number: int) -> dict[str, Any]:
    place = {"h": 1, "w": _WIDTH * _COLUMNS, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}


def _panel(panel: Panel, x: int, y: int, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + i), "datasource": _SOURCE, "legendFormat": legend, "expr": query}
            for i, (legend, query) in enumerate(panel.queries)
        ],
    }


def _source_choice() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "source"}


def _choice(label: str) -> dict[str, Any]:
    query = f"label_values(tupelo:engine_up, {label})"
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def main() -> int:
    """Write the dashboard; the exit code."""
    PAGE.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
