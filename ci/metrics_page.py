"""Writes docs/metrics.md from the declarations of the metrics: ``python ci/metrics_page.py``.

With ``--check`` it writes nothing and says whether the page is up to date.
"""

import sys
from pathlib import Path

from tupelo_server.metric_names import ENGINE, SCHEDULER, SERVER, Family

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

_TEMPLATE = """# Metrics

Written by `python ci/metrics_page.py` from the declarations in `tupelo_server/metric_names.py`; do
not edit it here.

`GET /metrics` answers in Prometheus' text format; it needs no key, and `--no-enable-metrics` turns
it off. A histogram stands there as `_bucket`, `_sum` and `_count`; those of time are in seconds,
with buckets from 1 ms to 120 s, unless the options `--bucket-…` say otherwise. No label's values
come from clients: `endpoint` is a route as it is declared, or `other`.

`examples/monitoring/` has a Grafana dashboard of these metrics and a configuration for Prometheus.
What begins with `sglang:` has SGLang's name and meaning, so that dashboards made for it work.

## The server

{server}

## What dashboards show of the engine

{scheduler}

## The engine's own numbers

They are absent while the engine does not answer.

{engine}
"""


def render() -> str:
    """The page as it should be."""
    engine = {f"tupelo:{key}": family for key, family in ENGINE.items()}
    return _TEMPLATE.format(
        server=_table(SERVER), scheduler=_table(SCHEDULER), engine=_table(engine)
    )


def _table(families: dict[str, Family]) -> str:
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for name, family in families.items():
        shown = name + ("_total" if family.kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{shown}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(lines)


def main() -> int:
    """Write the page, or with ``--check`` compare it; the exit code."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(render(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == render():
        return 0
    print("docs/metrics.md is not up to date; run: python ci/metrics_page.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
