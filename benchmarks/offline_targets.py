"""What offline workloads run on: ``tupelo.Engine``, another engine as a callable, or a server."""

import asyncio
import json
import runpy
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from online import over_http, replay

Requests = Sequence[tuple[list[int], int]]

FLUSHES = ("flush_cache", "reset_prefix_cache")
"""Where servers empty their prefix cache: SGLang's and ours, vLLM's."""


def nothing() -> Any:
    """Of an engine that has no such thing."""
    return {}


@dataclass(frozen=True, slots=True)
class Target:
    """An engine.

    Attributes:
        run: all requests at once, greedy and to their full lengths; tokens that came of each.
        flush: empties the prefix cache. stats: counters by name.
    """

    run: Callable[[Requests], list[int]]
    flush: Callable[[], object] = nothing
    stats: Callable[[], dict[str, int]] = nothing


def of_tupelo(engine: Any) -> Target:
    """``tupelo.Engine``."""

    def run(requests: Requests) -> list[int]:
        params = [{"temperature": 0, "max_new_tokens": n, "ignore_eos": True} for _, n in requests]
        replies = engine.generate(input_ids=[ids for ids, _ in requests], sampling_params=params)
        return [len(reply["output_ids"]) for reply in replies]

    return Target(run, engine.flush_cache, engine.stats)


def of_callable(place: str) -> Target:
    """``FILE.py:NAME``; calling NAME without arguments starts an engine, and gives a function from
    prompts and numbers of tokens to lists of tokens. Its attribute ``flush``, where it has one,
    empties its cache."""
    file, _, name = place.rpartition(":")
    generate = runpy.run_path(file)[name]()

    def run(requests: Requests) -> list[int]:
        prompts, counts = zip(*requests, strict=True)
        return [len(tokens) for tokens in generate(list(prompts), list(counts))]

    return Target(run, getattr(generate, "flush", nothing))


def of_url(url: str) -> Target:
    """A server with OpenAI's API; its requests are streamed."""
    where = urlsplit(url)
    if not where.hostname or not where.port:
        raise SystemExit(f"--url {url}: wanted http://HOST:PORT")
    stream = over_http(where.hostname, where.port, model_at(url))

    def run(requests: Requests) -> list[int]:
        traces = asyncio.run(replay(stream, requests, [0.0] * len(requests)))
        return [trace.num_tokens for trace in traces]

    return Target(run, lambda: flush_at(url))


def model_at(url: str) -> str:
    """The name of the first model that a server has."""
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        name: str = json.load(answer)["data"][0]["id"]
    return name


def flush_at(url: str) -> None:
    """Empty a server's prefix cache, under whichever name it has for that."""
    for name in FLUSHES:
        request = urllib.request.Request(f"{url}/{name}", method="POST")
        try:
            with urllib.request.urlopen(request) as answer:
                answer.read()
            return
        except urllib.error.HTTPError as error:
            if error.code not in (404, 405):
                raise
    print(f"{url} has no way to empty its prefix cache: runs after the first find it full")
