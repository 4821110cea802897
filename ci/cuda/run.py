#!/usr/bin/env python3
"""Runs the parts of the CUDA pipeline, each in a process of its own, and writes one JSON.

Parts: ``smoke`` (device, rates, kernels built, a tiny model against the CPU), ``certify`` (the
kit's certified profile, whose collectives take two GPUs) or, where there is one GPU, ``conform``
(the kit's ``--levels`` with Triton's attention), ``conform-reference``, ``conform-flashinfer``
(the kit in what FlashInfer has), ``parity`` (every family), ``bench``
(``benchmarks/gpu_offline.py``), ``online`` and ``http`` (``benchmarks/gpu_online.py``), ``sweep``
and ``sweep-triton`` (nothing is built late), ``leak``, ``idle``, ``start``; and only where it is
named ``serve`` (a model, its reply and its speed: ci/serve.py). Options after ``--`` go to the
benchmarks among them.

With ``--at-once`` several run side by side, which is for proofs, each with its part of the cores;
``conform@1`` is the kit's level 1, ``conform@2@1/4`` every fourth case of its level 2,
``parity@2/4`` every fourth family from the second on.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROOFS = ("conform-reference", "conform-flashinfer", "parity")
FIGURES = ("bench", "online", "http", "sweep", "sweep-triton", "leak", "idle", "start")
BY_NAME = ("certify", "conform", "serve")
"""What runs where ``--parts`` has it."""
SHOWN_LINES = 40


def main() -> int:
    """Run what was asked for; 1 if any part failed or ran out of time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--parts", default="", help="with commas between")
    parser.add_argument("--levels", default="0,1,2,3", help="of the kit")
    parser.add_argument("--at-once", type=int, default=1, help="parts that run side by side")
    parser.add_argument("--limit-s", type=float, default=1800, help="for all parts together")
    parser.add_argument("rest", nargs="*", help="options of the benchmarks, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.limit_s
    results: dict[str, Any] = {}
    with ThreadPoolExecutor(args.at_once) as pool:
        running = {
            pool.submit(lambda part: run_part(part, args, end - time.monotonic()), part): part
            for part in (args.parts.split(",") if args.parts else all_parts())
        }
        for done in as_completed(running):
            results[running[done]] = done.result()
            (args.out / "cuda.json").write_text(json.dumps(results, indent=1))
    bad = [part for part, result in results.items() if result["exit_code"]]
    print("\n".join(f"{p}: exit {r['exit_code']}, {r['seconds']} s" for p, r in results.items()))
    return 1 if bad else 0


def all_parts() -> tuple[str, ...]:
    """What runs if nothing is named."""
    kit = "certify" if torch.cuda.device_count() > 1 else "conform"
    return ("smoke", kit, *PROOFS, *FIGURES)


def run_part(part: str, args: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """One part: its exit code, seconds, report, and the end of what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        command, environment, report = plan_part(part, args, Path(folder))
        print(f"== {part}: {' '.join(command)}", flush=True)
        began = time.monotonic()
        log = args.out / f"{part.replace('/', '.').replace('@', '-')}.log"
        environment["PYTHONFAULTHANDLER"] = "1"
        if args.at_once > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.at_once))
        with log.open("w") as stream:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # with what it starts, it is stopped as one
            )
            try:
                code = process.wait(max(1.0, limit_s))
            except subprocess.TimeoutExpired:
                code = stop(process)
        lines = log.read_text(errors="replace").splitlines()
        print("\n".join(lines[-SHOWN_LINES:]), flush=True)
        return {
            "exit_code": code,
            "seconds": round(time.monotonic() - began, 1),
            "command": command,
            "environment": environment,
            "report": json.loads(report.read_text()) if report.is_file() else None,
            "tail": lines[-SHOWN_LINES:],
        }


def stop(process: subprocess.Popen[bytes]) -> int:
    """End a part that ran out of time, and its processes; they print first where their threads are.

    Inside MLIR's passes the signal ends the pass instead, so that a case may fail at the very end:
    "PassManager::run failed".
    """
    print(f"out of time: process {process.pid} is told to abort", flush=True)
    os.killpg(process.pid, signal.SIGABRT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return 124


def plan_part(
    part: str, args: argparse.Namespace, folder: Path
) -> tuple[list[str], dict[str, str], Path]:
    """Command, environment, and the JSON that the part writes."""
    python = sys.executable
    part, _, share = part.partition("@")
    if part == "smoke":
        report = folder / "smoke.json"
        return [python, str(HERE / "smoke.py"), str(report), str(args.out)], {}, report
    if part == "certify":
        kit = args.out / "kit"
        command = [python, "-m", "tupelo.conformance", "--backend", "cuda", "-v"]
        command += ["--profile", "certified", "--report", str(kit)]
        return command, {}, kit / "conformance.json"
    if part == "serve":
        report = folder / "serve.json"
        serve = str(ROOT / "ci/serve.py")
        return [python, serve, str(report)], {"TUPELO_BACKEND": "cuda"}, report
    if part.startswith("conform"):
        attention = {"conform": "triton"}.get(part, part.removeprefix("conform-"))
        backend = "narrow:backend" if attention == "flashinfer" else "cuda"
        command = [python, "-m", "tupelo.conformance", "--backend", backend]
        levels, _, share = share.partition("@")
        command += ["--level", levels or args.levels, "--report", str(folder), "-v"]
        command += ["--share", share] if share else []
        path = f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = {"TUPELO_CUDA_ATTENTION": attention, "PYTHONPATH": path}
        return command, environment, folder / "conformance.json"
    if part == "parity":
        report = folder / "parity.json"
        command = [python, str(HERE / "parity.py"), str(report)]
        return [*command, *(["--share", share] if share else [])], {}, report
    if part == "bench":
        report = folder / "bench.json"
        command = [python, str(ROOT / "benchmarks/gpu_offline.py"), "--json", str(report)]
        return [*command, *args.rest], {}, report
    if part in ("online", "http"):
        report = folder / "online.json"
        command = [python, str(ROOT / "benchmarks/gpu_online.py"), "--json", str(report)]
        return [*command, *(["--over", "http"] if part == "http" else []), *args.rest], {}, report
    if part in ("sweep", "sweep-triton", "leak", "idle", "start"):
        name, _, attention = part.partition("-")
        report = folder / f"{name}.json"
        environment = {"TUPELO_CUDA_ATTENTION": attention} if attention else {}
        return [python, str(HERE / f"{name}.py"), str(report)], environment, report
    allowed = ", ".join(("smoke", *PROOFS, *FIGURES, *BY_NAME))
    raise SystemExit(f"--parts {part}: allowed: {allowed}")


if __name__ == "__main__":
    sys.exit(main())
