"""The operator's calls on a tiny engine: paused and resumed, nothing is lost or changed."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.unit.engine.tiny import tiny_engine

from tupelo import Engine
from tupelo.errors import InvalidRequest, RequestAborted

LONG = {"temperature": 0, "max_new_tokens": 60, "ignore_eos": True}
PROMPTS = [[5, 6, 7, 8, 9, 10, i] for i in range(4)]


@pytest.fixture(params=[1, 2], ids=["depth 1", "depth 2"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with tiny_engine(pipeline_depth=request.param) as running:
        yield running


class Asking:
    """A call of ``generate`` in a thread; ``wait`` gives its ids, or raises its error."""

    def __init__(self, engine: Engine, prompts: list[list[int]]) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=self._run, args=(engine, prompts))
        self._thread.start()

    def _run(self, engine: Engine, prompts: list[list[int]]) -> None:
        try:
            self._found.append(engine.generate(input_ids=prompts, sampling_params=LONG))
        except Exception as error:
            self._found.append(error)

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> list[list[int]]:
        self._thread.join(30)
        if isinstance(self._found[0], Exception):
            raise self._found[0]
        return [reply["output_ids"] for reply in self._found[0]]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_pause_changes_no_token(engine: Engine, mode: str) -> None:
    quiet = Asking(engine, PROMPTS).wait()
    engine.flush_cache()
    asking = Asking(engine, PROMPTS)
    until(lambda: engine.stats()["num_running"] == 4 and engine.stats()["decode_tokens"] > 260)
    assert engine.pause_generation(mode) == 4
    before = engine.stats()
    assert before["paused"] == 1
    assert before["num_running"] == (4 if mode == "in_place" else 0)
    late = Asking(engine, PROMPTS[:1])
    until(lambda: engine.stats()["num_waiting"] == before["num_waiting"] + 1)
    time.sleep(0.05)
    assert engine.stats()["steps"] == before["steps"], "nothing is computed meanwhile"
    assert not asking.over
    engine.continue_generation()
    assert asking.wait() == quiet
    assert late.wait() == quiet[:1]
    assert engine.stats()["pages_owned"] == [0]


def test_a_pause_aborts_by_default(engine: Engine) -> None:
    asking = Asking(engine, PROMPTS)
    until(lambda: engine.stats()["num_running"] == 4)
    assert engine.pause_generation() == 0
    with pytest.raises(RequestAborted):
        asking.wait()
    assert engine.flush_cache()
    engine.continue_generation()
    assert len(Asking(engine, PROMPTS[:1]).wait()[0]) == 60


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_requests_can_leave_a_paused_engine(engine: Engine, mode: str) -> None:
    stream = engine.generate(input_ids=PROMPTS[0], sampling_params=LONG, stream=True)
    next(stream)
    assert engine.pause_generation(mode) == 1
    stream.close()
    until(lambda: engine.stats()["aborted"] == 1)
    stats = engine.stats()
    assert (stats["num_running"], stats["num_waiting"], stats["pages_owned"]) == (0, 0, [0])
    engine.continue_generation()
    assert len(Asking(engine, PROMPTS[:1]).wait()[0]) == 60


def test_an_unknown_mode_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="in_place") as caught:
        engine.pause_generation("softly")
    assert caught.value.param == "mode"
    assert engine.stats()["paused"] == 0
