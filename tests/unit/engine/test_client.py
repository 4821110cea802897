"""The engine's process, seen from its parent: started, used, frozen, killed, stopped."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq
from tests.unit.engine.tiny import tiny_source

from tupelo.config import EngineConfig
from tupelo.engine.client import SILENT_S, EngineClient
from tupelo.engine.messages import Output, Outputs
from tupelo.errors import CheckpointError, EngineUnavailable, OutOfMemory
from tupelo.request import FinishReason, Request, SamplingParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(dict(tiny_source().config.raw)))
    return path


def config(folder: Path, **options: object) -> EngineConfig:
    values = {"max_total_tokens": 2048, "page_size": 4, "backend": "cpu", "seed": 7}
    return EngineConfig(model=str(folder), load_format="dummy", **(values | options))  # type: ignore[arg-type]


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[EngineClient]:
    client = EngineClient(config(folder), log_level="warning")
    await client.start()
    yield client
    await client.stop()


def request(rid: str, num_tokens: int = 8) -> Request:
    params = SamplingParams(temperature=0.0, max_new_tokens=num_tokens, ignore_eos=True)
    return Request(rid=rid, input_ids=(1, 2, 3, 4, 5), params=params)


async def collect(client: EngineClient, rid: str, num_tokens: int = 8) -> list[Output]:
    return [output async for output in client.submit(request(rid, num_tokens))]


async def process_id(client: EngineClient) -> int:
    assert client._process is not None
    return client._process.pid


async def test_requests_side_by_side_give_the_tokens_of_one_alone(client: EngineClient) -> None:
    alone = await collect(client, "alone")
    many = await asyncio.gather(*(collect(client, f"r{i}") for i in range(6)))
    tokens = [t for output in alone for t in output.token_ids]
    assert len(tokens) == 8
    assert alone[-1].finish is not None
    assert alone[-1].finish.reason is FinishReason.LENGTH
    for outputs in many:
        assert [t for output in outputs for t in output.token_ids] == tokens
    assert client.health().ready


async def test_closing_a_stream_aborts_its_request(client: EngineClient) -> None:
    stream = client.submit(request("long", 400))
    await anext(stream)
    await stream.aclose()
    while (stats := await client.control("stats"))["num_running"]:
        await asyncio.sleep(0.01)
    assert stats["aborted"] == 1
    assert stats["pages_owned"] == [0]


async def test_a_first_token_comes_before_the_others_next_ones() -> None:
    order: list[str] = []

    class Told(asyncio.Queue[Output | None]):
        def put_nowait(self, item: Output | None) -> None:
            assert item is not None
            order.append(item.rid)

    client = EngineClient(EngineConfig())
    client._streams = {"decoding": Told(), "new": Told(), "newer": Told()}
    client._unheard = {"new", "newer"}
    step = [Output(rid=rid, token_ids=[5]) for rid in client._streams]
    client._take(Outputs([*step]))
    client._take(Outputs([*step]))
    assert order == ["new", "newer", "decoding", "decoding", "new", "newer"]


async def test_health_asks_the_engine_nothing(client: EngineClient) -> None:
    before = await client.control("stats")
    assert all(client.health().ready for _ in range(1000))
    assert await client.control("stats") == before


async def test_bytes_that_are_no_message_change_nothing(client: EngineClient) -> None:
    assert client._folder is not None
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(f"ipc://{client._folder / 'from-engine'}")
    for data in (b"", b"\x00" * 100, os.urandom(1000), b"\x81\xa4type\xa6Submit"):
        client._outbox.send(data)
        socket.send(data)
    outputs = await collect(client, "after")
    assert len([t for output in outputs for t in output.token_ids]) == 8
    assert client.num_dropped == 4
    socket.close()


async def test_sockets_are_private_to_the_user(client: EngineClient) -> None:
    assert client._folder is not None
    assert client._folder.stat().st_mode & 0o077 == 0


async def test_an_interrupt_at_the_terminal_is_the_parents_business(client: EngineClient) -> None:
    os.kill(await process_id(client), signal.SIGINT)
    await collect(client, "after")
    assert client.health().ready


async def test_a_killed_engine_ends_its_streams_and_says_so(client: EngineClient) -> None:
    told: list[int] = []
    client.on_death = told.append
    stream = client.submit(request("victim", 400))
    await anext(stream)
    os.kill(await process_id(client), signal.SIGKILL)
    with pytest.raises(EngineUnavailable, match="died"):
        async for _ in stream:
            pass
    assert told == [-signal.SIGKILL]
    assert not client.health().ready
    with pytest.raises(EngineUnavailable):
        await collect(client, "late")


async def test_a_frozen_engine_is_not_ready_and_recovers(client: EngineClient) -> None:
    pid = await process_id(client)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(SILENT_S + 1.0)
        health = client.health()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert not health.ready
    assert "silent" in health.reason
    await collect(client, "after")
    assert client.health().ready


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"model": "/nonexistent/model"}, CheckpointError),
        ({"max_total_tokens": 10**12}, OutOfMemory),
    ],
    ids=["absent model", "too much"],
)
async def test_a_failed_start_raises_what_was_raised_there(
    folder: Path, options: dict[str, object], kind: type[Exception]
) -> None:
    values = {"model": str(folder)} | options
    model = str(values.pop("model"))
    client = EngineClient(config(Path(model), **values), log_level="error")
    with pytest.raises(kind):
        await client.start()
    assert client._process is not None
    assert client._process.returncode is not None
