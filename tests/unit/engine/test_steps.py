"""Marks of the steps that served a traced request, on a device that runs in a clock of its own."""

from itertools import pairwise

import pytest
from tests.unit.engine.test_patience import SlowDevice

from tupelo.engine.loop import EngineLoop
from tupelo.engine.messages import Output, StepMark
from tupelo.engine.steps import MAX_MARKS
from tupelo.request import Request, SamplingParams
from tupelo.scheduler import Scheduler, SchedulerConfig
from tupelo.specs import PageGroup

SENT_S = 1e-9


def loop_of(device: SlowDevice, depth: int) -> EngineLoop:
    config = SchedulerConfig(
        groups=(PageGroup(num_pages=512),),
        page_size=16,
        context_length=4096,
        max_running=8,
        chunk_tokens=64,
    )
    return EngineLoop(Scheduler(config), device, 997, depth=depth, clock=device.clock)


def request(rid: str, num_tokens: int, *, traced: bool = True, start: int = 0) -> Request:
    params = SamplingParams(temperature=0.0, max_new_tokens=num_tokens, ignore_eos=True)
    ids = tuple(range(start, start + 200))
    return Request(rid=rid, input_ids=ids, params=params, arrived_s=SENT_S, traced=traced)


def ended(loop: EngineLoop) -> dict[str, list[StepMark]]:
    """Run until nothing is left; the marks of each request, from its last output alone."""
    outputs: list[Output] = []
    while loop.has_work():
        outputs += loop.step()
    marks = {}
    for output in outputs:
        steps = output.timing.steps if output.timing is not None else []
        if output.finish is not None:
            marks[output.rid] = steps
        else:
            assert not steps
    return marks


@pytest.mark.parametrize("depth", [1, 2])
def test_marks_are_the_steps(depth: int) -> None:
    """Alone on the device, every step is the request's: its chunks, then a token each."""
    device = SlowDevice()
    loop = loop_of(device, depth)
    loop.submit(request("a", 20))
    (marks,) = ended(loop).values()
    ran = device.starts[: len(marks)]  # a step that was launched early may be surplus
    assert len(device.starts) - len(marks) <= depth - 1
    assert [mark.prompt_tokens for mark in marks] == [tokens for _, tokens in ran]
    assert [mark.prompt_tokens for mark in marks if mark.prompt_tokens] == [64, 64, 64, 8]
    assert sum(mark.tokens for mark in marks) == 20
    assert [mark.count for mark in marks] == [1] * len(marks)
    for mark, (begin_s, _) in zip(marks, ran, strict=True):
        assert mark.begin_s == pytest.approx(begin_s, abs=0.002)  # launching takes part of it
        assert mark.end_s > mark.begin_s


@pytest.mark.parametrize("depth", [1, 2])
def test_many_steps_are_few_marks(depth: int) -> None:
    loop = loop_of(SlowDevice(), depth)
    loop.submit(request("a", 1000))
    (marks,) = ended(loop).values()
    assert MAX_MARKS // 2 <= len(marks) <= MAX_MARKS
    assert sum(mark.prompt_tokens for mark in marks) == 200
    assert sum(mark.tokens for mark in marks) == 1000
    assert sum(mark.count for mark in marks) == 1003  # the last chunk brings the first token
    for one, two in pairwise(marks):
        assert one.first + one.count == two.first
        assert one.begin_s < one.end_s <= two.begin_s


def test_only_traced_requests_have_marks_and_none_stays() -> None:
    loop = loop_of(SlowDevice(), 2)
    loop.submit(request("plain", 30, traced=False))
    assert ended(loop) == {"plain": []}
    loop.submit(request("plain", 30, traced=False, start=300))
    loop.submit(request("traced", 30, start=600))
    loop.submit(request("aborted", 30, start=700))
    for _ in range(8):
        loop.step()
    (gone,) = loop.abort(["aborted"])
    assert gone.timing is not None
    assert gone.timing.steps, "what was done for it is told"
    found = ended(loop)
    assert found["plain"] == []
    assert max(mark.rows for mark in found["traced"]) == 3
    assert sum(mark.tokens for mark in found["traced"]) == 30
    assert not loop._steps._marks
