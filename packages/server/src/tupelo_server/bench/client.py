"""Sends the requests and takes the times."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tupelo.lang.backends.http import uses_proxies
from tupelo_server.bench.datasets import Prompt


@dataclass(slots=True)
class Sample:
    """What happened to one request. Times in seconds of the monotonic clock.

    Attributes:
        chunks_s: arrival of each chunk that brought output.
        error: why it failed, "" if it did not.
    """

    begin_s: float
    chunks_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Load:
    """How the requests arrive.

    Attributes:
        rate: requests a second on average, as a Poisson process; 0 sends all at once.
        concurrency: requests under way at most; 0 means no limit.
        chat: over ``/v1/chat/completions`` instead of ``/v1/completions``.
        extra: further fields of each request.
    """

    url: str
    model: str
    output_len: int
    key: str = ""
    rate: float = 0.0
    concurrency: int = 0
    chat: bool = False
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


async def run(
    load: Load, prompts: Sequence[Prompt], on_done: Callable[[Sample], None]
) -> list[Sample]:
    """Send every prompt; the samples in the order of the prompts."""
    gate = asyncio.Semaphore(load.concurrency or len(prompts))
    draw = random.Random(load.seed)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"authorization": f"Bearer {load.key}"} if load.key else {}
    timeout = httpx.Timeout(30.0, read=None, pool=None)
    async with httpx.AsyncClient(
        base_url=load.url,
        headers=headers,
        limits=limits,
        timeout=timeout,
        trust_env=uses_proxies(load.url),
    ) as client:

        async def one(prompt: Prompt) -> Sample:
            async with gate:
                sample = await _measure(client, load, prompt)
            on_done(sample)
            return sample

        tasks = []
        for prompt in prompts:
            tasks.append(asyncio.create_task(one(prompt)))
            if load.rate:
                await asyncio.sleep(draw.expovariate(load.rate))
        return list(await asyncio.gather(*tasks))


async def _measure(client: httpx.AsyncClient, load: Load, prompt: Prompt) -> Sample:
    path, body = _request(load, prompt)
    sample = Sample(time.monotonic())
    try:
        async with client.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                sample.error = f"{response.status_code}: {text[:200]}"
            else:
                await _read(response.aiter_lines(), sample)
    except httpx.HTTPError as error:
        sample.error = f"{type(error).__name__}: {error}"
    sample.end_s = time.monotonic()
    return sample


def _request(load: Load, prompt: Prompt) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {
        "model": load.model,
        "max_tokens": load.output_len,
        "stream": True,
        "stream_options": {"include_usage": True},
        **load.extra,
    }
    if load.chat:
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": prompt}]}
    return "/v1/completions", {**body, "prompt": prompt}


async def _read(lines: AsyncIterator[str], sample: Sample) -> None:
    """Take the times of the chunks, and the token counts of the last."""
    async for line in lines:
        if not line.startswith("data:") or line.endswith("[DONE]"):
            continue
        now = time.monotonic()
        data = json.loads(line[len("data:") :])
        if "error" in data:
            sample.error = str(data["error"])[:200]
            return
        if any(_has_output(choice) for choice in data.get("choices", [])):
            sample.chunks_s.append(now)
        usage = data.get("usage")
        if usage:
            sample.input_tokens = usage["prompt_tokens"]
            sample.output_tokens = usage["completion_tokens"]
    sample.output_tokens = sample.output_tokens or len(sample.chunks_s)


def _has_output(choice: dict[str, Any]) -> bool:
    """Whether a chunk brings tokens: the role alone, and the end alone, bring none."""
    if "delta" in choice:
        return bool(choice["delta"].get("content"))
    return bool(choice.get("text")) or choice.get("finish_reason") is None
