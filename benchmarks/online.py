"""Requests at given times, their tokens' times, and the figures made of them.

A stream is whatever yields, as they come, how many tokens each arrival brings: an engine in this
process, or a server over HTTP.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tupelo.engine.client import EngineClient
from tupelo.request import Request, SamplingParams

Stream = Callable[[list[int], int], AsyncIterator[int]]
"""Tokens a chunk, of a prompt's ids and a number of tokens to generate."""

Requests = Sequence[tuple[list[int], int]]


@dataclass(slots=True)
class Trace:
    """One request: when it was sent, when each chunk came, and how many tokens came in all."""

    sent_s: float = 0.0
    chunks_s: list[float] = field(default_factory=list)
    num_tokens: int = 0


async def replay(stream: Stream, requests: Requests, arrivals: Sequence[float]) -> list[Trace]:
    """Send each request at its time, in seconds from now, and take the times of its tokens."""
    begin = time.perf_counter() + 0.2

    async def one(ids: list[int], wanted: int, at_s: float) -> Trace:
        trace = Trace()
        await asyncio.sleep(begin + at_s - time.perf_counter())
        trace.sent_s = time.perf_counter()
        async for count in stream(ids, wanted):
            trace.chunks_s.append(time.perf_counter())
            trace.num_tokens += count
        assert trace.num_tokens == wanted, f"{trace.num_tokens} tokens, not {wanted}"
        return trace

    tasks = [
        asyncio.create_task(one(ids, wanted, at_s))
        for (ids, wanted), at_s in zip(requests, arrivals, strict=True)
    ]
    return list(await asyncio.gather(*tasks))


def figures(runs: Sequence[Sequence[Trace]]) -> dict[str, float]:
    """Latencies in milliseconds over all runs together, and the runs' mean output rate."""
    traces = list(itertools.chain(*runs))
    first = [1e3 * (trace.chunks_s[0] - trace.sent_s) for trace in traces]
    gaps = [1e3 * (b - a) for t in traces for a, b in itertools.pairwise(t.chunks_s)]
    rates = [
        sum(trace.num_tokens for trace in run)
        / (max(t.chunks_s[-1] for t in run) - min(t.sent_s for t in run))
        for run in runs
    ]
    return {
        "ttft_p50_ms": percentile(first, 50),
        "ttft_p99_ms": percentile(first, 99),
        "itl_p50_ms": percentile(gaps, 50),
        "itl_p99_ms": percentile(gaps, 99),
        "ttft_mean_ms": statistics.fmean(first),
        "itl_mean_ms": statistics.fmean(gaps),
        "output_tokens_per_s": statistics.fmean(rates),
        "requests": float(len(traces)),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest ranks."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def in_process(engine: Any) -> Stream:
    """Tokens of ``tupelo.Engine``, greedy, end tokens ignored."""

    async def stream(ids: list[int], wanted: int) -> AsyncIterator[int]:
        params = {"temperature": 0, "max_new_tokens": wanted, "ignore_eos": True}
        seen = 0
        replies = await engine.async_generate(input_ids=ids, sampling_params=params, stream=True)
        async for reply in replies:
            count = reply["meta_info"]["completion_tokens"]
            yield count - seen
            seen = count

    return stream


def through(client: EngineClient) -> Stream:
    """Tokens of an engine's process, greedy, end tokens ignored."""
    numbers = itertools.count()

    async def stream(ids: list[int], wanted: int) -> AsyncIterator[int]:
        params = SamplingParams(max_new_tokens=wanted, temperature=0.0, ignore_eos=True)
        request = Request(rid=f"r{next(numbers)}", input_ids=tuple(ids), params=params)
        async for output in client.submit(request):
            if output.token_ids:
                yield len(output.token_ids)

    return stream


def over_http(host: str, port: int, model: str = "") -> Stream:
    """Tokens of ``/v1/completions``; a client that costs little, with a connection a request."""

    async def stream(ids: list[int], wanted: int) -> AsyncIterator[int]:
        body = msgspec.json.encode(
            {
                "model": model,
                "prompt": ids,
                "max_tokens": wanted,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
        try:
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            )
            writer.write(body)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head + await reader.read(4096)
            seen, last = 0, b""
            while data := await reader.read(1 << 16):
                count = data.count(b'"choices":[{')  # a chunk of TCP may hold several events
                last = (last + data)[-1024:]
                if count:
                    seen += count
                    yield count
            usage = int(last.rpartition(b'"completion_tokens":')[2].split(b",")[0])
            assert b"data: [DONE]" in last, last
            if usage != seen:  # tokens without text of their own have no event
                yield usage - seen
        finally:
            writer.close()

    return stream
