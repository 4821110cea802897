#!/usr/bin/env python3
"""20,000 short requests in one call leave nothing behind; a pool that is too small fails nobody.

leak.py REPORT.json [REQUESTS]
"""

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from engines import llama

from tupelo.engine import Engine

LAYERS = 2
MAX_RSS_GROWTH = 96 << 20
"""Of the host: allocators keep some of what the replies took."""

TIGHT_TOKENS = 12288
"""A pool for a tenth of what the requests at once will want."""


def prompts(count: int, low: int, high: int, seed: int) -> list[list[int]]:
    """Random ids, of ``low`` to ``high`` tokens."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(low, high + 1, count)
    return [draw.integers(1000, 100000, size).tolist() for size in sizes]


def run(engine: Engine, count: int, low: int, high: int, new_tokens: int, seed: int) -> float:
    """All in one call, each reply complete; the seconds."""
    params = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
    began = time.perf_counter()
    replies = engine.generate(input_ids=prompts(count, low, high, seed), sampling_params=params)
    assert all(len(reply["output_ids"]) == new_tokens for reply in replies)
    return time.perf_counter() - began


def memory() -> dict[str, int]:
    """Bytes, of the device's allocator and of this process."""
    gc.collect()
    return {
        "device_allocated": torch.cuda.memory_allocated(),
        "device_reserved": torch.cuda.memory_reserved(),
        "device_used": torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0],
        "host_rss": psutil.Process().memory_info().rss,
    }


def books(engine: Engine) -> dict[str, Any]:
    """What must be so when nothing runs."""
    stats = engine.stats()
    pages = {name: stats[f"pages_{name}"] for name in ("total", "free", "owned", "cached")}
    back = [
        f + c == t for f, c, t in zip(pages["free"], pages["cached"], pages["total"], strict=True)
    ]
    return {
        "pages_back": all(back) and not any(pages["owned"]),
        "pages": pages,
        "retractions": stats["retractions"],
        "builds_after_ready": stats["builds_after_ready"],
        "idle": not stats["num_running"] and not stats["num_waiting"],
    }


def many(count: int) -> dict[str, Any]:
    """Memory before and after; a first call lets the allocators find their size."""
    with llama(LAYERS) as engine:
        run(engine, 2000, 8, 48, 6, seed=1)
        before = memory()
        seconds = run(engine, count, 8, 48, 6, seed=2)
        after = memory()
        found = books(engine)
    growth = {name: after[name] - before[name] for name in before}
    print(f"{count} requests in {seconds:.1f} s; growth {growth}", flush=True)
    device = [growth[name] for name in growth if name.startswith("device")]
    ok = max(device) <= 0 and growth["host_rss"] < MAX_RSS_GROWTH
    ok = ok and found["pages_back"] and found["idle"] and not found["builds_after_ready"]
    return {"ok": ok, "seconds": seconds, "before": before, "growth": growth, **found}


def tight() -> dict[str, Any]:
    """A pool that runs out again and again: requests are taken back, and all end as they should."""
    with llama(LAYERS, max_total_tokens=TIGHT_TOKENS, context_length=512) as engine:
        seconds = run(engine, 600, 100, 200, 160, seed=3)
        found = books(engine)
    print(f"tight pool: {found['retractions']} retractions in {seconds:.1f} s", flush=True)
    ok = found["retractions"] > 0 and found["pages_back"] and found["idle"]
    return {"ok": ok, "seconds": seconds, **found}


def main() -> int:
    """Both; 1 if either is not as it should be."""
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    report = {"many": many(count), "tight": tight()}
    Path(sys.argv[1]).write_text(json.dumps(report, indent=1))
    return 0 if all(part["ok"] for part in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
