#!/usr/bin/env python3
"""Offline speed on a GPU: the workloads of ``gpu_workloads.py`` through ``tupelo.Engine``, or
through another engine.

Dummy weights of the Llama-3.1-8B shape in bfloat16, prompts as ids, greedy, fixed lengths. One
engine with one set of settings runs all rows; the prefix cache is emptied before each run. A row's
first run is a run like the others: nothing is compiled after the engine is ready, and a counter in
the report shows it.

  gpu_offline.py                                       every row, twice
  gpu_offline.py --rows w2,w3_64 --runs 3 --json out.json
  gpu_offline.py --no-overlap | --no-graphs | --no-radix | --attention triton        ablations
  gpu_offline.py --engine FILE.py:NAME                 another engine: offline_targets.of_callable
  gpu_offline.py --url http://127.0.0.1:30000          a server, streamed
"""

import argparse
import datetime
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_workloads as workloads
import torch
from called import command
from dummy_model import LLAMA_8B
from offline_targets import Requests, Target, of_callable, of_tupelo, of_url

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ci" / "cuda"))
from rates import rates

from tupelo.backend import find_backend
from tupelo.checkpoint import parse_hf_config
from tupelo.config import environment
from tupelo.engine import Engine
from tupelo.engine.build import Source

ROWS: dict[str, Callable[[], Requests]] = {
    "w2": workloads.w2,
    "w3_64": lambda: workloads.w3(64),
    "w3_256": lambda: workloads.w3(256),
    "w5": workloads.w5,
    "w1": workloads.w1,
    "w4": workloads.w4,
    "w4_interleaved": lambda: workloads.w4(order="interleaved"),
}

PEERS: dict[str, tuple[str, float]] = {
    "w1": ("output_tokens_per_s", 7170),
    "w2": ("ms_per_token", 6.35),
    "w3_64": ("output_tokens_per_s", 7554),
    "w3_256": ("output_tokens_per_s", 16901),
    "w4": ("seconds", 10.1),
    "w4_interleaved": ("seconds", 12.7),
    "w5": ("input_tokens_per_s", 41232),
}
"""The better of vLLM 0.26.0 and SGLang 0.5.16 on one H100 80GB, and the figure that is compared."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--layers", type=int, default=LLAMA_8B["num_hidden_layers"])
    parser.add_argument("--chunk", type=int, default=0, help="prompt tokens of one step")
    parser.add_argument("--max-running", type=int, default=0)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--policy", default="lpm", help="order of the waiting queue")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--no-overlap", action="store_true")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--no-radix", action="store_true")
    parser.add_argument("--no-groups", action="store_true", help="each row reads its prefix")
    parser.add_argument("--no-rates", action="store_true")
    parser.add_argument("--engine", default="", help="another engine, FILE.py:NAME")
    parser.add_argument("--url", default="", help="a server that is there")
    parser.add_argument("--profile", type=Path, help="folder for a table of kernels, a row each")
    return parser.parse_args()


def make_engine(args: argparse.Namespace) -> Engine:
    """The engine that runs every row; without a tokenizer, since prompts are ids."""
    shape = parse_hf_config(LLAMA_8B | {"num_hidden_layers": args.layers})
    os.environ["TUPELO_CUDA_ATTENTION"] = args.attention
    os.environ["TUPELO_CUDA_PREFIX_GROUPS"] = "0" if args.no_groups else "1"
    os.environ["TUPELO_CUDA_GRAPHS"] = "0" if args.no_graphs else "1"
    return Engine(
        source=Source(config=shape, checkpoint=None, path="llama-3.1-8b", tokenizer_path=""),
        backend=find_backend("cuda"),
        dtype="bfloat16",
        context_length=args.context,
        max_running_requests=args.max_running,
        max_queued_requests=4096,
        chunked_prefill_size=args.chunk,
        schedule_policy=args.policy,
        pipeline_depth=1 if args.no_overlap else 0,
        disable_radix_cache=args.no_radix,
    )


def run_row(target: Target, requests: Requests) -> dict[str, float]:
    """One run, from the first submission to the last token."""
    before = target.stats()
    began = time.perf_counter()
    produced = sum(target.run(requests))
    seconds = time.perf_counter() - began
    after = target.stats()
    num_in, num_out = workloads.totals(requests)
    assert produced == num_out, f"{produced} tokens, not {num_out}"
    names = [n for n in ("steps", "cached_tokens", "retractions") if n in after]
    moved = {name: after[name] - before[name] for name in names}
    shared = {"hit_share": moved["cached_tokens"] / num_in} if moved else {}
    return {
        "seconds": seconds,
        "output_tokens_per_s": num_out / seconds,
        "input_tokens_per_s": num_in / seconds,
        "ms_per_token": 1e3 * seconds * len(requests) / num_out,
        **shared,
        **moved,
    }


def counters(engine: Engine | None) -> dict[str, int]:
    """What must stay 0 once the engine is ready, and how steps were run."""
    if engine is None:
        return {}
    runner = engine._built.runner
    names = ("num_captures", "num_replays", "num_eager")
    found = {name: getattr(runner, name) for name in names if hasattr(runner, name)}
    return {"builds_after_ready": engine.stats()["builds_after_ready"], **found}


def products() -> Any:
    """What the backend has measured and remembers, for every device so far."""
    file = environment().cache_dir / "cuda" / "products.json"
    return json.loads(file.read_text()) if file.is_file() else None


def profiled(folder: Path, name: str, run: Callable[[], Any]) -> None:
    """Write a trace of ``run``, for looking at."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        run()
    folder.mkdir(parents=True, exist_ok=True)
    table = trace.key_averages().table(sort_by="cuda_time_total", row_limit=40)
    (folder / f"{name}.txt").write_text(table)
    print(table, flush=True)


def measure(target: Target, engine: Engine | None, args: argparse.Namespace) -> dict[str, Any]:
    """Every row, every run, beside the better peer."""
    results: dict[str, Any] = {}
    for name in args.rows.split(","):
        requests = ROWS[name]()
        runs = []
        for _ in range(args.runs):
            target.flush()
            runs.append(run_row(target, requests))
            field, peer = PEERS[name]
            print(
                f"{name:>16} {runs[-1][field]:10.3f} {field}",
                json.dumps(_short(runs[-1])),
                flush=True,
            )
        value = statistics.median(run[field] for run in runs)
        lower = field in ("seconds", "ms_per_token")
        ratio = peer / value if lower else value / peer
        results[name] = {
            "digest": workloads.digest(requests),
            "runs": runs,
            "figure": field,
            "value": value,
            "peer": peer,
            "ratio": ratio,
            "counters": counters(engine),
        }
        if args.profile:
            target.flush()
            profiled(args.profile, name, lambda: run_row(target, requests))  # noqa: B023
    return results


def _short(run: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in run.items()}


def main() -> None:
    """Measure, print a table, write the JSON."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "rates": None if args.no_rates else rates(),
    }
    print("rates", report["rates"], flush=True)
    if args.engine or args.url:
        target = of_url(args.url) if args.url else of_callable(args.engine)
        report["rows"] = measure(target, None, args)
    else:
        run_tupelo(args, report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    geometric = 1.0
    for name, row in report["rows"].items():
        geometric *= row["ratio"] ** (1 / len(report["rows"]))
        print(f"{name:>16} {row['value']:10.3f} {row['figure']:<20} {row['ratio']:.3f} x best peer")
    print(f"geometric mean {geometric:.3f}")


def run_tupelo(args: argparse.Namespace, report: dict[str, Any]) -> None:
    """Every row through ``tupelo.Engine``; what it tells of itself goes into the report."""
    began = time.perf_counter()
    engine = make_engine(args)
    report["ready_s"] = time.perf_counter() - began
    report["phases_s"] = engine.info.phases_s
    report["versions"] = engine.info.versions
    report["memory"] = engine.info.memory
    report["kv_tokens"] = engine.info.max_total_tokens
    report["kernels"] = engine.info.kernels
    report["counters_when_ready"] = counters(engine)
    report["products"] = products()
    print(f"ready in {report['ready_s']:.1f} s", engine.info.phases_s, flush=True)
    print("KV tokens", report["kv_tokens"], "memory", report["memory"], flush=True)
    print(sorted({f"{k['op']}:{k['kernel']}" for k in engine.info.kernels}), flush=True)
    with engine:
        report["rows"] = measure(of_tupelo(engine), engine, args)


if __name__ == "__main__":
    main()
