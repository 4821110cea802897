#!/usr/bin/env python3
"""Online speed on a GPU: Poisson arrivals with the lengths of W1 (W6), and W1 itself streamed.

In this process, or over HTTP against a server that is started for it or already there. Each run is
on an empty prefix cache; the runs of a rate are pooled.

  gpu_online.py --rates 8,24 --runs 3              in process
  gpu_online.py --serve --rates 8 --burst 2        a server with no options but the model's
  gpu_online.py --url http://127.0.0.1:30000 --rates 8
"""

import argparse
import contextlib
import datetime
import json
import logging
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gpu_workloads as workloads
import torch
import uvloop
from dummy_model import LLAMA_8B, write_model
from online import Stream, figures, in_process, over_http, replay

PEERS: dict[str, dict[str, dict[str, float]]] = {
    "8": {
        "vLLM 0.26.0": {"ttft_p50_ms": 34, "ttft_p99_ms": 79, "itl_p50_ms": 7.3, "itl_p99_ms": 31},
        "SGLang 0.5.16": {
            "ttft_p50_ms": 30, "ttft_p99_ms": 55, "itl_p50_ms": 7.3, "itl_p99_ms": 29,
        },
    },
    "24": {
        "vLLM 0.26.0": {
            "ttft_p50_ms": 51, "ttft_p99_ms": 100, "itl_p50_ms": 9.8, "itl_p99_ms": 36,
        },
        "SGLang 0.5.16": {
            "ttft_p50_ms": 39, "ttft_p99_ms": 133, "itl_p50_ms": 10.7, "itl_p99_ms": 82,
        },
    },
}  # fmt: skip
"""One run each on one H100 80GB, without HTTP."""


class Served(NamedTuple):
    """What is measured: its stream, a way to empty its cache, and what is known of it."""

    stream: Stream
    flush: Callable[[], object]
    about: dict[str, Any]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", default="8,24", help="requests a second; empty for none")
    parser.add_argument("--runs", type=int, default=3, help="of each rate")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--burst", type=int, default=0, help="runs of W1, all requests at once")
    parser.add_argument("--serve", action="store_true", help="start a server, measure over HTTP")
    parser.add_argument("--url", default="", help="measure a server that is there")
    parser.add_argument("--layers", type=int, default=workloads.MODEL["layers"])
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="of the server, after --")
    return parser.parse_args()


@contextlib.contextmanager
def engine(args: argparse.Namespace) -> Iterator[Served]:
    """An engine in this process, with no options but the context's length."""
    from tupelo.checkpoint import parse_hf_config
    from tupelo.engine import Engine
    from tupelo.engine.build import Source

    shape = parse_hf_config(LLAMA_8B | {"num_hidden_layers": args.layers})
    source = Source(config=shape, checkpoint=None, path="llama-3.1-8b", tokenizer_path="")
    with Engine(source=source, context_length=args.context) as running:
        info = running.info
        about = {"phases_s": info.phases_s, "versions": info.versions, "memory": info.memory}
        yield Served(in_process(running), running.flush_cache, about)
        about["builds_after_ready"] = running.stats()["builds_after_ready"]


@contextlib.contextmanager
def server(args: argparse.Namespace) -> Iterator[Served]:
    """A server of its own, or the one at ``--url``."""
    if args.url:
        yield served(args.url, {})
        return
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", num_hidden_layers=args.layers)
        command = [sys.executable, "-m", "tupelo", "serve", str(model), "--port", "0"]
        command += ["--load-format", "dummy", "--context-length", str(args.context), *args.options]
        log = Path(folder) / "server.log"
        began = time.perf_counter()
        with log.open("w") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            while "ready in" not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.1)
            ready_s = time.perf_counter() - began
            found = re.search(r"listening on (http://[\d.:]+)", log.read_text())
            assert found is not None
            yield served(found[1], {"command": command[2:], "ready_s": ready_s})
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            print(log.read_text()[-3000:], flush=True)


def served(url: str, about: dict[str, Any]) -> Served:
    """A server by its address."""
    where = urlsplit(url)
    assert where.hostname
    assert where.port

    def flush() -> None:
        request = urllib.request.Request(f"{url}/flush_cache", method="POST")
        with urllib.request.urlopen(request) as answer:
            answer.read()

    return Served(over_http(where.hostname, where.port), flush, about)


def measure(target: Served, args: argparse.Namespace) -> dict[str, Any]:
    """Every workload; prints a line each."""
    results: dict[str, Any] = {}
    work = [(f"w6_{rate}", args.runs, rate) for rate in args.rates.split(",") if rate]
    if args.burst:
        work.append(("w1", args.burst, ""))
    for name, runs, rate in work:
        requests, arrivals = (
            workloads.w6(float(rate), n=args.requests) if rate else (workloads.w1(), [0.0] * 1000)
        )
        traces = []
        for _ in range(runs):
            target.flush()
            traces.append(uvloop.run(replay(target.stream, requests, arrivals)))
            print(name, _short(figures(traces[-1:])), flush=True)
        found = figures(traces)
        peers = PEERS.get(rate, {})
        better = {
            peer: [key for key, value in their.items() if found[key] < value]
            for peer, their in peers.items()
        }
        print(f"{name} pooled {_short(found)} better than {better}", flush=True)
        results[name] = {
            "digest": workloads.digest(requests),
            "runs": [figures([trace]) for trace in traces],
            "pooled": found,
            "peers": peers,
            "better": better,
        }
    return results


def _short(found: dict[str, float]) -> str:
    names = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "output_tokens_per_s")
    return json.dumps({name: round(found[name], 2) for name in names})


def main() -> None:
    """Measure, print, write the JSON."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    over = server if args.serve or args.url else engine
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "over": "HTTP" if over is server else "none: in process",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    with over(args) as target:
        report["about"] = target.about
        warm = workloads.w1(n=8, seed=1)
        uvloop.run(replay(target.stream, warm, [0.1 * i for i in range(8)]))
        report["workloads"] = measure(target, args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
