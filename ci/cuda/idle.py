#!/usr/bin/env python3
"""How long the GPU idles between decode steps: a trace of some, of W3-64 and at the end of W1.

  idle.py REPORT.json [LAYERS]

A decode step is one graph replay, told by its launch. Between two replays lie the next step's
copies and small kernels; what is left of that time is idle, as a share of the whole window.
"""

import itertools
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from engines import llama, workloads
from torch.profiler import ProfilerActivity, profile

from tupelo.engine import Engine

WINDOW_S = 0.5
LIMIT = 0.02
MIN_KERNELS = 20
"""A launch that runs at least so many kernels is a step's graph."""


class Span(NamedTuple):
    """Work on the device, in microseconds; ``launch`` tells what the host did for it."""

    begin: float
    end: float
    launch: int


def spans(trace: Path) -> list[Span]:
    """Kernels, copies and fills, in order."""
    events = json.loads(trace.read_text())["traceEvents"]
    found = [
        Span(e["ts"], e["ts"] + e["dur"], e["args"].get("correlation", -1))
        for e in events
        if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    return sorted(found)


def busy(work: list[Span], begin: float, end: float) -> float:
    """Microseconds of an interval in which anything runs."""
    total, reached = 0.0, begin
    for span in work:
        first, last = max(span.begin, reached), min(span.end, end)
        if last > first:
            total += last - first
            reached = last
    return total


def idle_shares(work: list[Span]) -> dict[str, float]:
    """Of the window from the first replay's begin to the last one's."""
    launches: dict[int, list[Span]] = defaultdict(list)
    for span in work:
        launches[span.launch].append(span)
    replays = sorted(
        (min(s.begin for s in group), max(s.end for s in group))
        for group in launches.values()
        if len(group) >= MIN_KERNELS
    )
    assert len(replays) > 3, f"{len(replays)} decode steps in the trace"
    begin, end = replays[0][0], replays[-1][0]
    between = sum(
        after - before - busy(work, before, after)
        for (_, before), (after, _) in itertools.pairwise(replays)
    )
    return {
        "steps": len(replays) - 1,
        "step_ms": (end - begin) / (len(replays) - 1) / 1e3,
        "idle_between_steps": between / (end - begin),
        "idle_in_all": 1 - busy(work, begin, end) / (end - begin),
    }


def traced(seconds: float) -> list[Span]:
    """What the device does for some time."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        time.sleep(seconds)
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        return spans(path)


def window(engine: Engine, requests: Any) -> dict[str, float]:
    """Trace a workload once all of its prompts are computed."""
    engine.flush_cache()
    num_in, _ = workloads.totals(requests)
    before = engine.stats()
    params = [{"temperature": 0, "max_new_tokens": n, "ignore_eos": True} for _, n in requests]
    arguments = {"input_ids": [ids for ids, _ in requests], "sampling_params": params}
    thread = threading.Thread(target=engine.generate, kwargs=arguments)
    thread.start()
    computed = 0
    while computed < num_in:
        time.sleep(0.02)
        stats = engine.stats()
        computed = sum(stats[k] - before[k] for k in ("prefill_tokens", "cached_tokens"))
    time.sleep(0.1)
    work = traced(WINDOW_S)
    thread.join()
    return idle_shares(work)


def main() -> int:
    """Both windows; 1 if the device idles for longer than it may."""
    layers = int(sys.argv[2]) if len(sys.argv) > 2 else workloads.MODEL["layers"]
    report = {}
    with llama(layers) as engine:
        traced(0.1)  # the first one sets the profiler up
        for name, requests in (("w3_64", workloads.w3(64)), ("w1", workloads.w1())):
            report[name] = window(engine, requests)
            print(name, json.dumps({k: round(v, 4) for k, v in report[name].items()}), flush=True)
            print(
                f"{name}: {100 * report[name]['idle_between_steps']:.2f} % idle between decode "
                f"steps, {100 * report[name]['idle_in_all']:.2f} % in all",
                flush=True,
            )
    Path(sys.argv[1]).write_text(json.dumps(report, indent=1))
    return 0 if all(part["idle_between_steps"] <= LIMIT for part in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
