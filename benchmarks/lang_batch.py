#!/usr/bin/env python3
"""What a common prefix is worth to a language program: ``run_batch`` of many questions on one text.

  python benchmarks/lang_batch.py [--model GGUF] [--pairs 5] [--lines 40] [--out FILE]

Asks 64 questions about a text of some 15 tokens a line, once as a batch that begins with an empty
prefix cache, and once as 64 calls that know nothing of one another, on an engine without a prefix
cache. Both have as many calls at a time and the same engine options otherwise; the answers must be
the same. The order of a pair's runs alternates. A ratio above 1: the batch is so many times faster.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tupelo as tp
from tupelo.lang import EngineBackend

GATE = 3.0
Items = list[dict[str, Any]]


@tp.function
def ask(s: Any, context: str, number: int) -> None:
    """One question about the text."""
    s += context
    s += f"Question: which number does line {number} have? Answer: Line {number} has the number"
    s += tp.gen("answer", max_tokens=4)


def as_batch(backend: EngineBackend, items: Items) -> list[str]:
    """The questions as one batch, from an empty cache."""
    assert backend.flush_cache()
    return [state["answer"] for state in ask.run_batch(items, backend=backend, temperature=0)]


def one_by_one(backend: EngineBackend, items: Items) -> list[str]:
    """The questions as calls of their own, all at a time."""
    with ThreadPoolExecutor(len(items)) as pool:
        run = partial(ask.run, backend=backend, temperature=0)
        return list(pool.map(lambda item: str(run(**item)["answer"]), items))


def timed(work: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Seconds, and the answers."""
    began = time.perf_counter()
    answers = work()
    return time.perf_counter() - began, answers


def measure(runs: dict[str, Callable[[], list[str]]], pairs: int) -> dict[str, list[float]]:
    """Seconds of each run, in the order of the pairs."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for pair in range(pairs):
        answers = []
        for name in list(runs) if pair % 2 == 0 else reversed(runs):
            took, said = timed(runs[name])
            seconds[name].append(took)
            answers.append(said)
        assert answers[0] == answers[1], "the cache changed an answer"
        batch, calls = (seconds[name][-1] for name in runs)
        print(f"pair {pair + 1}: {batch:.1f} s and {calls:.1f} s, {calls / batch:.1f}", flush=True)
    return seconds


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=os.environ.get("TUPELO_DEMO_GGUF", ""))
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = arguments.lines
    context = "".join(f"Line {i} has the number {i * 37 % 101}.\n" for i in range(lines))
    items = [{"context": context, "number": i % lines} for i in range(arguments.questions)]
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        with_cache, without = (
            EngineBackend(
                stack.enter_context(
                    tp.Engine(model=arguments.model, batch_invariant=True, disable_radix_cache=off)
                )
            )
            for off in (False, True)
        )
        as_batch(with_cache, items[:2])  # what is done once is done
        one_by_one(without, items[:2])
        runs = {
            "batch": partial(as_batch, with_cache, items),
            "calls": partial(one_by_one, without, items),
        }
        seconds = measure(runs, arguments.pairs)
        tokens = len(with_cache.encode_texts([context], special=True)[0])
    ratios = [c / b for b, c in zip(seconds["batch"], seconds["calls"], strict=True)]
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"CPU, {os.cpu_count()} cores",
        "load_before": round(load, 2),
        "torch": torch.__version__,
        "questions": arguments.questions,
        "context_tokens": tokens,
        "seconds": seconds,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "gate": GATE,
    }
    print(json.dumps(found["ratio"]))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
