"""When a launch waits for requests to arrive: on a device that runs in a clock of its own."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tupelo.backend import Ticket
from tupelo.batch import Batch, Bucket, StepResult
from tupelo.engine.executor import Executor
from tupelo.engine.loop import EngineLoop
from tupelo.request import Request, SamplingParams
from tupelo.scheduler import Scheduler, SchedulerConfig
from tupelo.specs import PageGroup

DECODE_S, TOKEN_S, LAUNCH_S, PAUSE_S = 0.006, 25e-6, 0.0005, 0.0002


class SlowDevice(Executor):
    """Steps one after another; time passes by launching, waiting and pausing alone.

    Attributes:
        starts: when each step began on the device, with its prompt tokens. idle_s: between steps.
    """

    def __init__(self, prompt_launch_s: float = LAUNCH_S) -> None:
        self._prompt_launch_s = prompt_launch_s
        self.now = self._free_at = self.idle_s = 0.0
        self.starts: list[tuple[float, int]] = []

    def clock(self) -> float:
        return self.now

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return Bucket()

    def forward(self, batch: Batch) -> Any:
        rows, tokens = batch.num_decode_rows, batch.num_tokens - batch.num_decode_rows
        begin = max(self.now + LAUNCH_S, self._free_at)
        self.now += self._prompt_launch_s if tokens else LAUNCH_S
        self.idle_s += begin - self._free_at if self.starts else 0.0
        self.starts.append((begin, tokens))
        self._free_at = max(begin + max(DECODE_S, TOKEN_S * (rows + tokens)), self.now)
        return None

    def sample(
        self, forward: Any, batch: Batch, mask: npt.NDArray[np.int32] | None
    ) -> Ticket[StepResult]:
        return _Result(self, StepResult(token_ids=np.full(batch.num_samples, 5, np.int32)))


class _Result(Ticket[StepResult]):
    def __init__(self, device: SlowDevice, value: StepResult) -> None:
        self._device, self._value, self._at = device, value, device._free_at

    def ready(self) -> bool:
        return self._device.now >= self._at

    def wait(self) -> StepResult:
        self._device.now = max(self._device.now, self._at)
        return self._value


class World:
    """The loop over that device, and requests that come at given times."""

    def __init__(
        self, arrivals: dict[float, int], depth: int = 2, prompt_launch_s: float = LAUNCH_S
    ) -> None:
        self.device = SlowDevice(prompt_launch_s)
        self.handed_out: dict[str, list[float]] = {}
        config = SchedulerConfig(
            groups=(PageGroup(num_pages=4096),), page_size=16, context_length=8192, max_running=8
        )
        self.loop = EngineLoop(
            Scheduler(config), self.device, 997, depth=depth, clock=self.device.clock
        )
        self._arrivals = sorted(arrivals.items())
        self._number = 0
        self.longest_patience_s = 0.0

    def add(self, at_s: float, tokens: int) -> None:
        self._arrivals.append((at_s, tokens))

    def run(self, until_s: float) -> None:
        while self.device.now < until_s and (self._arrivals or self.loop.has_work()):
            if not self.loop.has_work():
                self.device.now = max(self.device.now, self._arrivals[0][0])
            self._arrive()
            while (patience := self.loop.patience_s()) > 0:
                self.longest_patience_s = max(self.longest_patience_s, patience)
                self.device.now += min(patience, PAUSE_S)
                self._arrive()
            for output in self.loop.step():
                self.handed_out.setdefault(output.rid, []).append(self.device.now)

    def _arrive(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self.device.now:
            _, tokens = self._arrivals.pop(0)
            self._number += 1
            ids = tuple((self._number * 31 + i) % 997 for i in range(tokens))
            params = SamplingParams(max_new_tokens=2000, ignore_eos=True)
            self.loop.submit(Request(rid=f"{self._number}", input_ids=ids, params=params))


def prompt_start(world: World, tokens: int) -> float:
    """When the step with a prompt of so many tokens began."""
    return next(start for start, found in world.device.starts if found == tokens)


def test_a_request_that_comes_while_others_are_expected_joins_the_next_step() -> None:
    world = World({0.0: 100, 0.5: 101})  # the second one lets a third be expected
    world.run(0.9)
    begin = world.device.starts[-1][0]  # of the step in flight, or of one about to begin
    world.add(begin + 0.001, 102)
    world.run(1.2)
    assert world.longest_patience_s > DECODE_S / 3
    assert prompt_start(world, 102) - begin < 1.01 * DECODE_S
    assert world.device.idle_s == 0.0


def test_without_expectation_the_next_step_is_launched_at_once() -> None:
    world = World({0.0: 100, 0.5: 101, 2.1: 102})
    world.run(0.5)
    assert world.longest_patience_s == 0.0
    world.run(1.6)
    world.longest_patience_s = 0.0
    world.run(2.1)  # the last arrival is long ago
    assert world.longest_patience_s == 0.0


def test_nothing_is_put_off_without_a_step_in_flight_beside() -> None:
    world = World({0.0: 100, 0.1: 101, 0.2: 102}, depth=1)
    world.run(0.5)
    assert world.longest_patience_s == 0.0


def test_full_slots_and_waiting_requests_leave_nothing_to_wait_for() -> None:
    world = World({0.1 * i: 100 for i in range(8)} | {0.75: 101})
    world.run(0.74)
    assert world.longest_patience_s > 0.0
    world.longest_patience_s = 0.0
    world.run(1.0)
    assert world.longest_patience_s == 0.0


def test_tokens_do_not_wait_for_the_launch_of_prompts() -> None:
    launch_s = 0.024  # the device is done with the prompt as soon as all of it has been launched
    arrivals = {0.0: 100} | {0.5 + 0.02 * i: 101 + i for i in range(5)}
    world = World(arrivals, prompt_launch_s=launch_s)
    world.run(0.79)
    for number, arrived_s in zip("23456", sorted(arrivals)[1:], strict=True):
        # The launch that it came in, its own, and a decode step: but not the launch after its own.
        assert world.handed_out[number][0] - arrived_s < 2 * launch_s + DECODE_S
    gaps = np.diff(world.handed_out["1"])
    assert gaps.max() < launch_s + 2 * DECODE_S
