"""Too many requests for too little memory, and clients that vanish: nothing is lost or leaks."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.system.harness import ServerProcess
from tests.system.tiny_model import VOCAB, write_tiny_model

PAGES, PAGE_SIZE, LENGTH = 160, 4, 64  # ten requests of the longest kind fill the pool


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A tiny random model with room for ten requests; its books are checked at every step."""
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    flags = {
        "--load-format": "dummy",
        "--max-total-tokens": str(PAGES * PAGE_SIZE),
        "--context-length": str(LENGTH),
        "--page-size": str(PAGE_SIZE),
        "--max-running-requests": "32",
        "--max-queued-requests": "300",
        "--pipeline-depth": "2",
    }
    words = [word for pair in flags.items() for word in pair]
    with ServerProcess(
        folder, tmp_path_factory.mktemp("log"), *words, "--check-integrity"
    ) as server:
        yield server


def body(seed: int, **options: Any) -> dict[str, Any]:
    """A completion of a random prompt, half of the context each."""
    rng = random.Random(seed)
    prompt = [rng.randrange(1, VOCAB) for _ in range(LENGTH // 2)]
    values = {"prompt": prompt, "max_tokens": LENGTH // 2, "ignore_eos": True, "temperature": 0}
    return values | options


def pages(server: ServerProcess, state: str) -> float:
    return server.metric(f"tupelo:pages_{state}")


async def test_five_hundred_requests_into_room_for_ten(tiny: ServerProcess) -> None:
    """Every one ends in a whole reply, or in a refusal that says why; the books hold."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=tiny.url, timeout=100, limits=limits) as client:
        replies = await asyncio.gather(
            *(client.post("/v1/completions", json=body(i)) for i in range(500))
        )
    seen = Counter(reply.status_code for reply in replies)
    assert sum(seen.values()) == 500
    assert set(seen) <= {200, 429, 503}
    assert seen[200] >= 300
    for reply in replies:
        if reply.status_code == 200:
            assert reply.json()["usage"]["completion_tokens"] == LENGTH // 2
        else:
            error = reply.json()["error"]
            assert error["message"]
            assert error["code"]
    assert tiny.metric("tupelo:num_running") == 0
    assert tiny.metric("tupelo:num_waiting") == 0
    assert pages(tiny, "owned") == 0
    assert pages(tiny, "free") + pages(tiny, "cached") == pages(tiny, "total")


async def test_pressure_changes_no_token(tiny: ServerProcess) -> None:
    """A request among many gets what it gets alone."""
    async with httpx.AsyncClient(base_url=tiny.url, timeout=100) as client:
        alone = (await client.post("/v1/completions", json=body(1000))).json()
        await client.post("/flush_cache")
        many = await asyncio.gather(
            *(client.post("/v1/completions", json=body(1000 + i)) for i in range(40))
        )
    assert many[0].json()["choices"][0]["text"] == alone["choices"][0]["text"]


async def vanish(url: httpx.URL, seed: int) -> None:
    """Ask for a stream, read a little of it or nothing, and hang up."""
    rng = random.Random(seed)
    data = json.dumps(body(seed % 50, stream=rng.random() < 0.7)).encode()
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data[: rng.choice([len(data), len(data), len(data) // 2])])
    await writer.drain()
    for _ in range(rng.randrange(4)):
        try:
            await asyncio.wait_for(reader.read(rng.randrange(1, 400)), 0.02)
        except TimeoutError:
            break
    writer.transport.abort()


async def test_two_thousand_disconnects_return_to_the_baseline(tiny: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=tiny.url, timeout=100) as client:
        await client.post("/v1/completions", json=body(3000))
        engine = tiny.engine.pid
        gate = asyncio.Semaphore(16)

        async def one(seed: int) -> None:
            async with gate:
                await vanish(client.base_url, seed)

        await asyncio.gather(*(one(i) for i in range(2000)))
        tiny.wait_for(lambda: tiny.metric("tupelo:num_running") == 0 == pages(tiny, "owned"), 1.0)
        assert tiny.metric("tupelo:num_waiting") == 0
        assert tiny.engine.pid == engine
        assert tiny.healthy()
        # What finished before can still be read from the cache.
        await client.post("/v1/completions", json=body(3000))
        before = tiny.metric("tupelo:hit_tokens_total")
        await client.post("/v1/completions", json=body(3000))
        assert tiny.metric("tupelo:hit_tokens_total") - before >= LENGTH // 2 - PAGE_SIZE


async def test_an_idle_server_sleeps(tiny: ServerProcess) -> None:
    """Under 2 % of a core for both processes together: CPU time, so other load does not matter."""
    processes = [psutil.Process(tiny.engine.ppid()), tiny.engine]
    await asyncio.sleep(1)

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = spent()
    await asyncio.sleep(5)
    assert spent() - before < 0.02 * 5


def test_a_server_stays_ready_during_a_long_step(demo_gguf: Path, tmp_path: Path) -> None:
    """A prompt in one step of several seconds: the heartbeat goes on beside it."""
    with ServerProcess(demo_gguf, tmp_path, "--chunked-prefill-size", "0") as server:
        rng = random.Random(0)
        prompt = [rng.randrange(1000, 40000) for _ in range(7000)]
        request = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(
                httpx.post, f"{server.url}/v1/completions", json=request, timeout=100
            )
            seen = []
            while not reply.done():
                seen.append(server.healthy())
                time.sleep(0.1)
        assert reply.result().status_code == 200
        assert len(seen) > 5
        assert all(seen)
