"""Compiles core's Triton kernels and this backend's own for NVIDIA GPUs that are not there.

    python ci/cuda/compile.py REPORT.json

Each launcher runs at an 8B model's sizes, as tests/unit/triton/launches.py has them, with this
backend's tuning. A kernel passes if it becomes a cubin that takes no more shared memory than one
program may have, spills nothing to speak of, and, where it multiplies matrices, has instructions
for them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]

SHARED_BYTES = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376}
"""Shared memory that one program may have, by architecture.

Source: CUDA C++ Programming Guide, technical specifications per compute capability.
"""

SPILL_BYTES = {"sm_80": 32, "sm_90": 0, "sm_100": 32, "sm_120": 32}
"""What a kernel may spill. The sizes that this backend tunes kernels to were measured on Hopper; a
few bytes elsewhere cost little, and more would say that sizes of their own are due."""

WITH_MATRIX = ("_decode_kernel", "_shared_kernel", "_extend_kernel", "_tile_kernel")


def lists() -> None:
    """The page lists of a step's rows."""
    from tupelo_cuda.paged_kernels import list_pages

    table = torch.zeros((65, 256), dtype=torch.int32)
    ends = torch.zeros(9, dtype=torch.int32)
    list_pages(table, ends[:8].long(), ends, torch.zeros(64, dtype=torch.int32), 8, 64)


def compile_all(target: str) -> None:
    """Print the facts of each kernel, one JSON a line; for a process of its own."""
    from tests.unit.triton import launches
    from tests.unit.triton.compiled import compile_for
    from tupelo_cuda.attention_tuning import attention_tuning

    launches.SIZES = attention_tuning()
    for facts in compile_for(target, {**launches.LAUNCHES, "page_lists": lists}):
        print(json.dumps(facts), flush=True)


def wrong(target: str, facts: dict[str, Any]) -> str:
    """What is wrong with a compiled kernel; "" if nothing."""
    if not facts["binary_bytes"]:
        return "no cubin"
    if facts["shared"] > SHARED_BYTES[target]:
        return f"{facts['shared']} bytes of shared memory, of {SHARED_BYTES[target]}"
    if facts["spills"] > SPILL_BYTES[target]:
        return f"spills {facts['spills']} bytes"
    if facts["kernel"] in WITH_MATRIX and "float32" not in facts["launch"] and not facts["matrix"]:
        return "no matrix instruction"
    return ""


def main() -> int:
    """Compile for every target, each in a process of its own."""
    results = []
    for target in SHARED_BYTES:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        command = [sys.executable, "-W", "ignore", __file__, "--target", target]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        for facts in found:
            why = wrong(target, facts)
            results.append({"target": target, **facts, "why": why, "passed": not why})
        passed = done.returncode == 0 and bool(found)
        results.append({"target": target, "kernel": "all", "passed": passed})
        bad = [r for r in results if r["target"] == target and not r["passed"]]
        spilled = sum(facts["spills"] > 0 for facts in found)
        said = f"{target}: {len(found)} kernels, {len(bad)} bad, {spilled} that spill a few bytes"
        print(said, *bad, sep="\n", flush=True)
    Path(sys.argv[1]).write_text(json.dumps(results, indent=1), "utf-8")
    print(f"{len(results) - len(SHARED_BYTES)} kernels compiled to cubin")
    return 0 if all(r["passed"] for r in results) else 1


if __name__ == "__main__":
    if sys.argv[1] == "--target":
        compile_all(sys.argv[2])
        sys.exit(0)
    sys.exit(main())
