#!/usr/bin/env python3
"""A cold burst of requests that share a prefix: prompt tokens computed, and time with the cache
and without.

  python benchmarks/shared_burst.py [--requests 64] [--prefix 1024] [--own 32] [--out FILE.json]

All requests arrive together at a server that has never seen the prefix, in two orders: as made, and
shuffled. Computed tokens are read from ``/metrics``; ideal is prefix + requests x own.
"""

import argparse
import json
import random
import re
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from bench_openai import Client  # noqa: E402
from cpu_pairs import server  # noqa: E402
from cpu_workloads import ids  # noqa: E402

CHUNK = ["--chunked-prefill-size", "256", "--max-running-requests", "64"]
GATE = 1.05


def prefilled(url: str) -> int:
    """Prompt tokens that the engine has computed so far."""
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    match = re.search(r"^tupelo:prefill_tokens_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE)
    assert match is not None
    return int(float(match[1]))


def burst(url: str, prompts: list[list[int]]) -> tuple[int, float]:
    """Tokens computed, and seconds, for all prompts at once."""
    before, began = prefilled(url), time.perf_counter()
    Client(url, extra={"ignore_eos": True}).many(prompts, 4)
    return prefilled(url) - before, time.perf_counter() - began


def main() -> None:
    """Run both orders on both servers, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=1024)
    parser.add_argument("--own", type=int, default=32)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = arguments.model
    if model is None:
        from tupelo.checkpoint import demo_model

        model = demo_model()
    unique = arguments.prefix + arguments.requests * arguments.own
    rows: list[dict[str, Any]] = []
    for name, options in (("cache", []), ("no cache", ["--disable-radix-cache"])):
        with server(model, CHUNK + options) as (url, _):
            burst(url, [ids("warm", 64)])
            for order in ("as made", "shuffled"):
                run = f"{random.random()}"
                prefix = ids(run, arguments.prefix)
                prompts = [
                    prefix + ids(f"{run}/{i}", arguments.own) for i in range(arguments.requests)
                ]
                if order == "shuffled":
                    random.Random(1).shuffle(prompts)
                tokens, seconds = burst(url, prompts)
                rows.append({"server": name, "order": order, "tokens": tokens, "seconds": seconds})
                print(
                    f"{name:9s} {order:9s} {tokens:6d} prompt tokens computed, "
                    f"{tokens / unique:6.3f} x the {unique} unique ones, {seconds:6.2f} s",
                    flush=True,
                )
    for order in ("as made", "shuffled"):
        with_cache, without = (r for r in rows if r["order"] == order)
        met = with_cache["tokens"] <= GATE * unique
        print(
            f"{order}: without the cache {without['seconds'] / with_cache['seconds']:.1f} x the "
            f"time; gate {GATE} x unique: {'met' if met else 'MISSED'}"
        )
    if arguments.out is not None:
        arguments.out.write_text(
            json.dumps(
                {"date": time.strftime("%Y-%m-%d"), "unique": unique, "rows": rows}, indent=1
            )
        )


if __name__ == "__main__":
    main()
