#!/usr/bin/env python3
"""Prompts of many lengths, in batches of many sizes, with every feature: nothing is built late.

sweep.py REPORT.json
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import llama, write_model

from tupelo.backend import find_backend
from tupelo.conformance.levels.engine import gemma3
from tupelo.conformance.sweep import KINDS, run_sweep
from tupelo.engine import Engine

LENGTHS = (1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 200, 255, 257, 511, 513)
LONG = (999, 1000, 1001, 1023, 1025, 2047, 2049, 3001)
COUNTS = (1, 2, 3, 4, 5, 8, 9, 17, 31, 64, 65, 96)


def sweep_llama(folder: Path) -> dict[str, Any]:
    """The large model's shape, two layers of it: the attention that serving takes."""
    model = write_model(folder / "model")
    with llama(
        2, tokenizer=str(model), max_running_requests=96, chunked_prefill_size=2048
    ) as engine:
        return sweep(engine, LENGTHS + LONG)


def sweep_windows() -> dict[str, Any]:
    """A tiny model with windows and norms per head."""
    with Engine(
        source=gemma3(64),
        backend=find_backend("cuda"),
        max_running_requests=96,
        chunked_prefill_size=256,
    ) as engine:
        return sweep(engine, [n for n in LENGTHS if n < 500])


def sweep(engine: Engine, lengths: Sequence[int]) -> dict[str, Any]:
    """Builds by kind of request."""
    found = {}
    before = 0
    for name in KINDS:
        began = time.perf_counter()
        built = run_sweep(engine, lengths, COUNTS, new_tokens=3, kinds=[name])
        found[name] = built - before
        before = built
        print(f"{name}: {found[name]} built, {time.perf_counter() - began:.1f} s", flush=True)
    return {"builds": found, "ok": before == 0, "phases_s": engine.info.phases_s}


def main() -> int:
    """1 if anything was built late. FlashInfer would build for minutes what windows need."""
    with tempfile.TemporaryDirectory() as folder:
        report = {"llama": sweep_llama(Path(folder))}
    if os.environ.get("TUPELO_CUDA_ATTENTION") == "triton":
        report["gemma3"] = sweep_windows()
    Path(sys.argv[1]).write_text(json.dumps(report, indent=1))
    return 0 if all(part["ok"] for part in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
