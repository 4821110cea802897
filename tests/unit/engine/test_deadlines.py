"""Requests that end because of time, and what a real engine's process says of time."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
from tests.unit.engine.tiny import tiny_source

from tupelo.config import EngineConfig
from tupelo.engine.client import EngineClient
from tupelo.engine.messages import Output
from tupelo.errors import RequestTimeout
from tupelo.request import Request, SamplingParams


def request(rid: str, num_tokens: int, arrived_s: float = 0.0) -> Request:
    params = SamplingParams(temperature=0.0, max_new_tokens=num_tokens, ignore_eos=True)
    return Request(rid=rid, input_ids=(1, 2, 3, 4, 5), params=params, arrived_s=arrived_s)


async def outputs(client: EngineClient, asked: Request) -> list[Output]:
    return [output async for output in client.submit(asked)]


async def test_times_and_their_ends(tmp_path: Path) -> None:
    """One engine that runs a request at a time: the second waits."""
    config = dict(tiny_source().config.raw) | {"max_position_embeddings": 2048}
    (tmp_path / "config.json").write_text(json.dumps(config))
    client = EngineClient(
        EngineConfig(
            model=str(tmp_path),
            load_format="dummy",
            backend="cpu",
            max_total_tokens=2048,
            page_size=4,
            max_running_requests=1,
        ),
        log_level="warning",
    )
    await client.start()
    try:
        await _waiting(client)
        await _timing(client)
        await _failing(client)
        stats = await client.control("stats")
        assert (stats["num_running"], stats["num_waiting"]) == (0, 0)
        assert sum(stats["pages_owned"]) == 0
    finally:
        await client.stop()


async def _waiting(client: EngineClient) -> None:
    """``expire`` ends who waits, and nobody else."""
    running = client.submit(request("first", 1500))
    await anext(running)
    second = asyncio.create_task(outputs(client, request("second", 4)))
    while not second.done() and (await client.control("stats"))["num_waiting"] == 0:
        await asyncio.sleep(0.01)
    for rid in ("first", "second", "unknown"):
        client.expire(rid)
    (refusal,) = await second
    assert refusal.finish is not None
    assert (refusal.finish.status, refusal.finish.code) == (503, "queue_timeout")
    finish = [output.finish async for output in running][-1]
    assert finish is not None
    assert finish.reason == "length"


async def _timing(client: EngineClient) -> None:
    """The parts fill the time from sending to the end, but for the way back.

    That way has no bound on a machine that does much else, so the best of some requests counts.
    """
    shares = [await _timed(client) for _ in range(10)]
    assert max(shares) > 0.8
    assert all(share <= 1.0 for share in shares)


async def _timed(client: EngineClient) -> float:
    """The share of a request's time that its parts say they took."""
    begin = time.monotonic()
    found = await outputs(client, request("timed", 200, begin))
    took = time.monotonic() - begin
    timed = [output for output in found if output.timing is not None]
    assert [timed[0], timed[-1]] == [found[0], found[-1]], "with the first token and the end"
    assert len(timed) == 2
    early, late = timed[0].timing, timed[1].timing
    assert early is not None
    assert late is not None
    assert early.decode_s == 0.0
    assert (early.queue_s, early.prefill_s) == (late.queue_s, late.prefill_s)
    return (late.queue_s + late.prefill_s + late.decode_s) / took


async def _failing(client: EngineClient) -> None:
    """``fail`` needs no answer: a frozen engine cannot hold a request."""
    assert client._process is not None
    os.kill(client._process.pid, signal.SIGSTOP)
    try:
        task = asyncio.create_task(outputs(client, request("stuck", 4)))
        await asyncio.sleep(0.05)
        client.fail("stuck", RequestTimeout("too long"))
        client.fail("unknown", RequestTimeout("too long"))
        with pytest.raises(RequestTimeout):
            await asyncio.wait_for(task, 5)
    finally:
        os.kill(client._process.pid, signal.SIGCONT)
