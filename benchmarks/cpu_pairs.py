#!/usr/bin/env python3
"""Tupelo's server against transformers' generate(), fp32 on the CPU, pair by pair in one run.

  python benchmarks/cpu_pairs.py [--model GGUF] [--pairs 5] [--only C1,C2,C3,C4] [--out FILE.json]

Each pair runs a workload of ``cpu_workloads.py`` on both, in turn (the order alternates), with
prompts of its own; a ratio is ours over theirs, above 1 is faster. C3's warm set is compared with
transformers' cold set, which has no prefix cache. Prints the median of the ratios with minimum and
maximum.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from bench_openai import Client  # noqa: E402
from cpu_workloads import SPEC  # noqa: E402

GATES = {"C1 decode": 1.6, "C2": 1.3, "C3 cold": 8.0, "C3 warm": 11.0, "C4": 0.95}
"""The least median ratio that counts as met (within 3 %)."""


class Transformers:
    """A process that runs ``engines_hf:HF`` jobs."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, str(HERE / "cpu_workloads.py"), "--engine", "engines_hf:HF"]
        command += [
            "--arg",
            f"model={model.parent}",
            "--arg",
            f"gguf_file={model.name}",
            "--worker",
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert json.loads(self._line())["ready"]

    def run(self, name: str, rep: str) -> dict[str, Any]:
        """One repetition of a workload; C3 runs its cold set alone."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"name": name, "rep": rep, "parts": 1}) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self._line()))

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextlib.contextmanager
def server(model: Path, arguments: list[str]) -> Iterator[tuple[str, int]]:
    """``tupelo serve``; yields its URL and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tupelo", "serve", str(model), "--port", str(port)]
    process = subprocess.Popen(command + arguments)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health").close()
                break
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def ratios(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Ours over theirs, for each figure of a workload."""
    if name == "C1":
        return {
            "C1 decode": ours["decode_tok_s"] / theirs["decode_tok_s"],
            "C1 first token": theirs["ttft_ms"] / ours["ttft_ms"],
        }
    if name == "C2":
        return {"C2": ours["out_tok_s"] / theirs["out_tok_s"]}
    if name == "C3":
        cold = theirs["cold_tok_s"]
        return {"C3 cold": ours["cold_tok_s"] / cold, "C3 warm": ours["warm_tok_s"] / cold}
    return {"C4": ours["prefill_tok_s"] / theirs["prefill_tok_s"]}


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="GGUF file; by default the demo model")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default=",".join(SPEC))
    parser.add_argument("--out", type=Path)
    arguments, serve_arguments = parser.parse_known_args()
    model = arguments.model
    if model is None:
        from tupelo.checkpoint import demo_model

        model = demo_model()
    figures: dict[str, list[float]] = {}
    raw: list[dict[str, Any]] = []
    theirs = Transformers(model)
    run = random.random()
    with server(model, serve_arguments) as (url, pid):
        client = Client(url, extra={"ignore_eos": True}, pid=pid)
        client.job("C1", f"warm/{run}")
        for pair in range(arguments.pairs):
            for name in arguments.only.split(","):
                rep, results = f"{run}/{pair}", {}
                order = ("theirs", "ours") if pair % 2 else ("ours", "theirs")
                for side in order:
                    results[side] = (
                        client.job(name, rep) if side == "ours" else theirs.run(name, rep)
                    )
                raw.append({"pair": pair, "workload": name, **results})
                print(json.dumps(raw[-1]), flush=True)
                for key, value in ratios(name, results["ours"], results["theirs"]).items():
                    figures.setdefault(key, []).append(value)
    theirs.process.terminate()
    theirs.process.wait()
    report(figures, raw, arguments.out, model)


def report(
    figures: dict[str, list[float]], raw: list[dict[str, Any]], out: Path | None, model: Path
) -> None:
    """Print the table; write everything to ``out``."""
    table = {}
    for key, values in figures.items():
        median = statistics.median(values)
        gate = GATES.get(key)
        met = gate is None or median >= 0.97 * gate
        verdict = "" if gate is None else f"  gate {gate:g}: {'met' if met else 'MISSED'}"
        spread = f"min {min(values):6.2f}  max {max(values):6.2f}"
        print(f"{key:15s} median {median:6.2f}  {spread}{verdict}")
        table[key] = {"median": median, "min": min(values), "max": max(values), "n": len(values)}
    if out is not None:
        import torch
        import transformers

        out.write_text(
            json.dumps(
                {
                    "date": time.strftime("%Y-%m-%d"),
                    "command": " ".join(["python", *sys.argv]),
                    "processor": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                    "torch": str(torch.__version__),
                    "transformers": transformers.__version__,
                    "model": model.name,
                    "ratios": table,
                    "raw": raw,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
