"""A simulated device's time: steps run one after another, and results arrive late."""

import time
from dataclasses import dataclass, field
from typing import TypeVar

from tupelo.backend import Ticket

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a step: ``launched``, ``readable`` or ``read``.

    ``at_s`` is on ``time.perf_counter``'s scale; ``readable`` may lie ahead when it is noted.
    """

    what: str
    step: int
    at_s: float


@dataclass(slots=True)
class DeviceClock:
    """When the device is free, and when what it computed can be read.

    Attributes:
        device_s: how long the device takes for a step, after the step before it.
        latency_s: how long a result takes to the host after that.
        moments: what happened to the steps, in the order of noting.
    """

    device_s: float = 0.0
    latency_s: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    _free_at_s: float = 0.0

    def launch(self, step: int) -> None:
        """Queue a step: it begins when the one before it ends."""
        now = time.perf_counter()
        self._free_at_s = max(now, self._free_at_s) + self.device_s
        self.moments.append(Moment("launched", step, now))

    def now_s(self) -> float:
        """The time on the moments' scale."""
        return time.perf_counter()

    def arrival_s(self) -> float:
        """When a result of the work queued so far reaches the host."""
        return max(time.perf_counter(), self._free_at_s) + self.latency_s

    def note(self, what: str, step: int, at_s: float) -> None:
        """Add a moment."""
        self.moments.append(Moment(what, step, at_s))

    def times(self, what: str) -> dict[int, float]:
        """When each step was ``what``, the first time."""
        first: dict[int, float] = {}
        for moment in self.moments:
            if moment.what == what:
                first.setdefault(moment.step, moment.at_s)
        return first


class LateTicket(Ticket[T]):
    """A result that can be read from ``arrival_s`` on; ``wait`` sleeps until then."""

    def __init__(self, value: T, arrival_s: float) -> None:
        self._value = value
        self._arrival_s = arrival_s

    def ready(self) -> bool:
        return time.perf_counter() >= self._arrival_s

    def wait(self) -> T:
        time.sleep(max(0.0, self._arrival_s - time.perf_counter()))
        return self._value
