#!/usr/bin/env python3
"""Online speed on a GPU: Poisson arrivals with the lengths of W1 (W6), and W1 itself streamed.

Without HTTP, which is an engine's process and its client as the server has them; in one process
with the requests' own code; or over HTTP, against a server that is started for it or already there.
Each run is on an empty prefix cache; the runs of a rate are pooled.

  gpu_online.py --rates 8,24 --runs 3
  gpu_online.py --over http --rates 8 --burst 2    a server with no options but the model's
  gpu_online.py --url http://127.0.0.1:30000 --rates 8
"""

import argparse
import asyncio
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
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gpu_workloads as workloads
import torch
import uvloop
from called import command
from dummy_model import write_model
from offline_targets import flush_at, model_at
from online import Stream, figures, in_process, over_http, replay, through

from tupelo import heap
from tupelo.config import EngineConfig
from tupelo.engine import Engine
from tupelo.engine.client import EngineClient

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
    flush: Callable[[], Awaitable[Any]]
    about: dict[str, Any]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--over", choices=OVER, default="client", help="how the engine is reached")
    parser.add_argument("--url", default="", help="measure a server that is there")
    parser.add_argument("--rates", default="8,24", help="requests a second; empty for none")
    parser.add_argument("--runs", type=int, default=3, help="of each rate")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--burst", type=int, default=0, help="runs of W1, all requests at once")
    parser.add_argument("--model", default="", help="a folder instead of the 8B shape")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--layers", type=int, default=workloads.MODEL["layers"])
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


@contextlib.asynccontextmanager
async def served(args: argparse.Namespace) -> AsyncIterator[Served]:
    """The engine, however it is reached, with no options but the context's length."""
    if args.url:
        yield at_url(args.url, {})
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or write_model(folder / "model", num_hidden_layers=args.layers)
        config = EngineConfig(
            model=str(model),
            load_format="dummy",
            context_length=args.context,
            backend=args.backend,
        )
        async with OVER[args.over](config, folder) as target:
            yield target


@contextlib.asynccontextmanager
async def own_thread(config: EngineConfig, folder: Path) -> AsyncIterator[Served]:
    """``tupelo.Engine``: its thread shares this process's interpreter."""
    with Engine(config) as engine:
        about: dict[str, Any] = {"phases_s": engine.info.phases_s, "memory": engine.info.memory}

        async def flush() -> bool:
            return engine.flush_cache()

        yield Served(in_process(engine), flush, about)
        about["builds_after_ready"] = engine.stats()["builds_after_ready"]


@contextlib.asynccontextmanager
async def own_process(config: EngineConfig, folder: Path) -> AsyncIterator[Served]:
    """``EngineClient``: what the server has behind HTTP."""
    client = EngineClient(config)
    info = await client.start()
    about: dict[str, Any] = {"phases_s": info.phases_s, "memory": info.memory}
    try:
        yield Served(through(client), lambda: client.control("flush_cache"), about)
        about["builds_after_ready"] = (await client.control("stats"))["builds_after_ready"]
    finally:
        await client.stop()


@contextlib.asynccontextmanager
async def server(config: EngineConfig, folder: Path) -> AsyncIterator[Served]:
    """A server of its own, spoken to over HTTP."""
    options = ["--load-format", "dummy", "--context-length", str(config.context_length)]
    options += ["--backend", config.backend]
    serve = [sys.executable, "-m", "tupelo", "serve", config.model, "--port", "0", *options]
    log = folder / "server.log"
    began = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(serve, stdout=stream, stderr=subprocess.STDOUT)
    try:
        while (ready := re.search(r"serving at (http://\S+)/v1", log.read_text())) is None:
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            await asyncio.sleep(0.1)
        about = {"serve": options, "ready_s": time.perf_counter() - began}
        yield at_url(ready[1], about)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        print(log.read_text()[-2000:], flush=True)


def at_url(url: str, about: dict[str, Any]) -> Served:
    """A server by its address."""
    where = urlsplit(url)
    assert where.hostname
    assert where.port
    stream = over_http(where.hostname, where.port, model_at(url))
    return Served(stream, lambda: asyncio.to_thread(flush_at, url), about)


OVER = {"client": own_process, "thread": own_thread, "http": server}


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every workload; prints a line each."""
    results: dict[str, Any] = {}
    work = [(f"w6_{rate}", args.runs, rate) for rate in args.rates.split(",") if rate]
    if args.burst:
        work.append(("w1", args.burst, ""))
    async with served(args) as target:
        heap.set_aside()  # this process is measured with
        await replay(target.stream, workloads.w1(n=8, seed=1), [0.1 * i for i in range(8)])
        for name, runs, rate in work:
            results[name] = await pooled(target, name, runs, rate, args.requests)
    return {"about": target.about, "workloads": results}


async def pooled(target: Served, name: str, runs: int, rate: str, count: int) -> dict[str, Any]:
    """Some runs of one workload, and their figures beside the peers'."""
    requests = workloads.w1()
    arrivals = [0.0] * len(requests)
    if rate:
        requests, arrivals = workloads.w6(float(rate), n=count)
    traces = []
    for _ in range(runs):
        await target.flush()
        traces.append(await replay(target.stream, requests, arrivals))
        print(name, _short(figures(traces[-1:])), flush=True)
    found = figures(traces)
    peers = PEERS.get(rate, {})
    better = {
        peer: [key for key, value in their.items() if found[key] < value]
        for peer, their in peers.items()
    }
    print(f"{name} pooled {_short(found)} better than {better}", flush=True)
    return {
        "digest": workloads.digest(requests),
        "runs": [figures([trace]) for trace in traces],
        "pooled": found,
        "peers": peers,
        "better": better,
    }


def _short(found: dict[str, float]) -> str:
    names = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "output_tokens_per_s")
    return json.dumps({name: round(found[name], 2) for name in names})


def main() -> None:
    """Measure, print, write the JSON."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "over": args.url or args.over,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        **uvloop.run(measure(args)),
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
