"""Outputs on their way to whoever waits: one message a receiver and step."""

import asyncio
import queue
from collections.abc import Sequence
from typing import Any

from tests.unit.engine.tiny import VOCAB, tiny_engine

from tupelo.engine.mail import Address, LoopPost, ThreadPost, deliver
from tupelo.engine.messages import Output


class CountingPost(ThreadPost):
    """Counts how often it is asked to hand over."""

    def __init__(self) -> None:
        self.num_puts = 0

    def put(self, items: Sequence[tuple[Address, Output | None]]) -> None:
        self.num_puts += 1
        super().put(items)


def output(rid: str) -> Output:
    return Output(rid=rid, token_ids=[1])


def test_each_receiver_is_woken_once_and_each_call_gets_its_own() -> None:
    first, second = CountingPost(), CountingPost()
    calls: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(3)]
    places = [(first, 0, 0), (first, 1, 0), (second, 2, 0), (first, 0, 1)]
    items = [(Address(post, calls[call], number), output(f"{call}/{number}"))
             for post, call, number in places]  # fmt: skip
    deliver(items)
    assert (first.num_puts, second.num_puts) == (1, 1)
    got = [[(number, o.rid) for number, o in call.get_nowait()] for call in calls]
    assert got == [[(0, "0/0"), (1, "0/1")], [(0, "1/0")], [(0, "2/0")]]
    assert all(call.empty() for call in calls)


def test_a_closed_event_loop_is_nobody() -> None:
    loop = asyncio.new_event_loop()
    post = LoopPost(loop)
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    loop.close()
    deliver([(Address(post, inbox, 0), output("a"))])
    assert inbox.empty()


def test_many_prompts_of_one_call_come_back_in_order() -> None:
    prompts = [[(7 * i + j) % VOCAB for j in range(1 + i % 5)] for i in range(300)]
    params = [
        {"temperature": 0, "max_new_tokens": 1 + i % 3, "ignore_eos": True} for i in range(300)
    ]
    with tiny_engine() as engine:
        replies = engine.generate(input_ids=prompts, sampling_params=params)
        alone = engine.generate(input_ids=prompts[117], sampling_params=params[117])
    assert [len(reply["output_ids"]) for reply in replies] == [1 + i % 3 for i in range(300)]
    assert replies[117]["output_ids"] == alone["output_ids"]


def test_streams_of_one_event_loop_run_side_by_side() -> None:
    params = {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}

    async def stream(engine: Any, first: int) -> list[int]:
        ids: list[int] = []
        async for reply in await engine.async_generate(
            input_ids=[first, 3, 5], sampling_params=params, stream=True
        ):
            assert reply["output_ids"][: len(ids)] == ids
            ids = reply["output_ids"]
        return ids

    async def all_of(engine: Any) -> list[list[int]]:
        return list(await asyncio.gather(*(stream(engine, i) for i in range(12))))

    with tiny_engine() as engine:
        got = asyncio.run(all_of(engine))
        want = engine.generate(input_ids=[[i, 3, 5] for i in range(12)], sampling_params=params)
    assert got == [reply["output_ids"] for reply in want]
