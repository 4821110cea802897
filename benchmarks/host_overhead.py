#!/usr/bin/env python3
"""What the host does for a decode step: thread CPU time of scheduling, batch building, result
handling.

  python benchmarks/host_overhead.py [--steps 400] [--out FILE.json]

The device is null (tokens come from a generator), everything else is real: scheduler, page
bookkeeping, batches, outputs. A tenth of the rows have penalties, another tenth a grammar, whose
mask of the whole vocabulary is written at every step, by threads that are not counted; every row
streams, and samples.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tupelo.backend import Done, Ticket
from tupelo.batch import Batch, Bucket, StepResult
from tupelo.engine.executor import Executor
from tupelo.engine.grammars import GrammarQueue
from tupelo.engine.loop import EngineLoop
from tupelo.engine.messages import Outputs, encode
from tupelo.grammar import GrammarCompiler, GrammarOptions, Vocabulary
from tupelo.request import Grammar, Request, SamplingParams
from tupelo.scheduler import Scheduler, SchedulerConfig
from tupelo.specs import PageGroup

VOCAB = 128_256
PAGE_SIZE = 16
GATES_MS = {1: 1.0, 256: 3.0}


class NullExecutor(Executor):
    """Returns tokens at once."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return Bucket()

    def forward(self, batch: Batch) -> Any:
        return None

    def sample(
        self, forward: Any, batch: Batch, mask: npt.NDArray[np.int32] | None
    ) -> Ticket[StepResult]:
        ids = self._rng.integers(1, VOCAB, batch.num_samples, dtype=np.int32)
        return Done(StepResult(token_ids=ids))


def words() -> Vocabulary:
    """An end token, and words of one to six letters."""
    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz "
    tokens = ["".join(draw.choices(letters, k=draw.randint(1, 6))) for _ in range(VOCAB - 1)]
    return Vocabulary(
        tokens=(b"<end>", *(token.encode() for token in tokens)),
        special_ids=(0,),
        eos_ids=(0,),
        encode=lambda text: [],
    )


def measure(rows: int, depth: int, steps: int) -> dict[str, float]:
    """Milliseconds of thread CPU time a step, with ``rows`` decoding."""
    length = 512 + steps + 8
    config = SchedulerConfig(
        groups=(PageGroup(num_pages=rows * -(-length // PAGE_SIZE) + 64),),
        page_size=PAGE_SIZE,
        context_length=length,
        max_running=rows,
        chunk_tokens=1 << 20,
    )
    compiler = GrammarCompiler(words, VOCAB, GrammarOptions())
    grammars = GrammarQueue(compiler, lambda: None, rows)
    loop = EngineLoop(Scheduler(config), NullExecutor(), VOCAB, depth=depth, grammars=grammars)
    rng = random.Random(0)
    for row in range(rows):
        params = SamplingParams(
            max_new_tokens=steps + 4,
            ignore_eos=True,
            seed=row,
            frequency_penalty=0.5 if row % 10 == 1 else 0.0,
        )
        ids = tuple(rng.randrange(VOCAB) for _ in range(rng.randrange(64, 512)))
        grammar = Grammar(kind="regex", text="[a-z ]*") if row % 10 == 2 else None
        loop.submit(Request(rid=str(row), input_ids=ids, params=params, grammar=grammar))
    while len(grammars):
        time.sleep(0.1 * (not grammars.has_done()))
        loop._admit_compiled()
    while loop.scheduler.num_waiting:
        loop.step()
    times = []
    for _ in range(steps - 8):
        began = time.thread_time()
        outputs = loop.step()
        encode(Outputs(outputs))  # the engine's process also writes the message
        times.append((time.thread_time() - began) * 1e3)
    assert len(outputs) == rows
    compiler.close()
    times.sort()
    return {"p50_ms": statistics.median(times), "p99_ms": times[int(0.99 * len(times))]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    table: dict[str, dict[str, float]] = {}
    for rows in (1, 8, 64, 256):
        for depth in (1, 2):
            figures = measure(rows, depth, arguments.steps)
            table[f"{rows} rows, depth {depth}"] = figures
            gate = GATES_MS.get(rows)
            note = "" if gate is None else f"   gate {gate:g} ms"
            print(
                f"{rows:4d} rows, depth {depth}: p50 {figures['p50_ms']:.3f} ms, "
                f"p99 {figures['p99_ms']:.3f} ms{note}"
            )
    if arguments.out is not None:
        arguments.out.write_text(
            json.dumps({"date": time.strftime("%Y-%m-%d"), "figures": table}, indent=1)
        )


if __name__ == "__main__":
    main()
