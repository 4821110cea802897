#!/usr/bin/env python3
"""What following a grammar costs: output tokens/s of a batch with one, over without, pair by pair.

  python benchmarks/grammar_cost.py [--model GGUF] [--pairs 5] [--rows 16] [--depth 2] [--out FILE]

The grammar never ends: an array of at least 100,000 objects, of which 64 tokens a request are
generated. The order of a pair's runs alternates; prompts are new in each run. A ratio above 1 is
faster. Without jumps, what masks cost is measured; with jumps, what the schema forces is not
sampled. ``cpu`` is the ratio of tokens for a second of this process's CPU time, all threads
together, which other work on the machine changes little. Where tokens are drawn and not just the
best taken, masked logits are also quicker to sort.
"""

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from tupelo import Engine

SCHEMA = {
    "type": "array",
    "minItems": 100_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "email": {"type": "string", "format": "email", "maxLength": 30},
            "tags": {"type": "array", "items": {"enum": ["new", "vip", "late"]}, "maxItems": 3},
        },
        "required": ["name", "age", "email", "tags"],
        "additionalProperties": False,
    },
}
PROMPT_TOKENS, NEW_TOKENS = 32, 64
GATE = 0.9
CASES = (("greedy", False, 0.0), ("greedy, with jumps", True, 0.0), ("drawn", False, 0.8))
"""Name, whether forced tokens are jumped over, temperature."""


def rate(engine: Engine, rows: int, draw: random.Random, **more: Any) -> tuple[float, float]:
    """Output tokens of one batch a second, and a second of CPU time."""
    size = engine.info.vocab_size
    prompts = [[draw.randrange(100, size - 100) for _ in range(PROMPT_TOKENS)] for _ in range(rows)]
    params = {"max_new_tokens": NEW_TOKENS, "ignore_eos": True, **more}
    began, cpu = time.perf_counter(), time.process_time()
    replies = engine.generate(
        input_ids=prompts, sampling_params=[{**params, "seed": i} for i in range(rows)]
    )
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    assert all(len(reply["output_ids"]) == NEW_TOKENS for reply in replies)
    return rows * NEW_TOKENS / seconds, rows * NEW_TOKENS / cpu_s


def measure(engine: Engine, rows: int, pairs: int, temperature: float) -> dict[str, Any]:
    """Rates of every pair, and the ratios."""
    draw = random.Random(0)
    for warm in ({}, {"json_schema": SCHEMA}):
        rate(engine, rows, draw, temperature=temperature, **warm)
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "grammar": []}
    for pair in range(pairs):
        order = list(found) if pair % 2 == 0 else list(reversed(found))
        for name in order:
            more = {"json_schema": SCHEMA} if name == "grammar" else {}
            found[name].append(rate(engine, rows, draw, temperature=temperature, **more))
    both = list(zip(found["grammar"], found["plain"], strict=True))
    ratios, cpu = ([g[i] / p[i] for g, p in both] for i in (0, 1))
    return {**found, "ratios": ratios, "cpu_ratios": cpu, "median": statistics.median(ratios)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=os.environ.get("TUPELO_DEMO_GGUF", ""))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--only", default="", choices=[name for name, _, _ in CASES])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    table: dict[str, Any] = {}
    for name, jumps, temperature in CASES:
        if arguments.only not in ("", name):
            continue
        with Engine(
            model=arguments.model,
            max_running_requests=arguments.rows,
            max_total_tokens=2 * arguments.rows * (PROMPT_TOKENS + NEW_TOKENS),
            pipeline_depth=arguments.depth,
            disable_jump_forward=not jumps,
        ) as engine:
            table[name] = measure(engine, arguments.rows, arguments.pairs, temperature)
        ratios, cpu = table[name]["ratios"], table[name]["cpu_ratios"]
        plain = statistics.median(wall for wall, _ in table[name]["plain"])
        print(
            f"{name:20}  plain {plain:7.1f} tokens/s  "
            f"ratio {table[name]['median']:.3f}  least {min(ratios):.3f}  most {max(ratios):.3f}  "
            f"(gate {GATE})  cpu {statistics.median(cpu):.3f} ({min(cpu):.3f} to {max(cpu):.3f})",
            flush=True,
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
