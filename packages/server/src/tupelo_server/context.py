"""What belongs to one HTTP request, whatever its route: known without looking into its body.

The guard sets it before the application runs; tasks that a request starts see it too.
"""

import math
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from tupelo.errors import InvalidRequest

TIMING_HEADER = "x-tupelo-timing"
TIMEOUT_HEADER = "x-request-timeout-s"
MAX_TIMEOUT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request.

    Attributes:
        received_s: when its headers were complete (``time.monotonic``).
        timing: whether its replies tell where the time went.
        timeout_s: seconds that it may take in all; 0 means no limit of its own.
        tenant: namespace of the caller's cached prefixes; "" shares with everybody.
        hide_cached: replies do not tell how many tokens came from the cache, for another
            caller's prompts may have put them there.
    """

    received_s: float = field(default_factory=time.monotonic)
    timing: bool = False
    timeout_s: float = 0.0
    tenant: str = ""
    hide_cached: bool = False


CONTEXT: ContextVar[RequestContext | None] = ContextVar("tupelo_request", default=None)


def context() -> RequestContext:
    """The request being served; one that begins now where there is none."""
    return CONTEXT.get() or RequestContext()


def read_headers(headers: Sequence[tuple[bytes, bytes]]) -> tuple[bool, float]:
    """What the headers ask for: whether timing is wanted, and the time limit in seconds.

    Raises:
        InvalidRequest: a value that is none.
    """
    timing, timeout_s = False, 0.0
    for name, value in headers:
        if name == TIMING_HEADER.encode():
            timing = _switch(value)
        elif name == TIMEOUT_HEADER.encode():
            timeout_s = _seconds(value)
    return timing, timeout_s


def _switch(value: bytes) -> bool:
    known = {b"1": True, b"true": True, b"0": False, b"false": False}
    found = known.get(value.strip().lower())
    if found is None:
        raise InvalidRequest(f"{TIMING_HEADER}: must be true or false", param=TIMING_HEADER)
    return found


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value[:32])
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise InvalidRequest(
            f"{TIMEOUT_HEADER}: must be a number of seconds above 0 and up to {MAX_TIMEOUT_S:g}",
            param=TIMEOUT_HEADER,
        )
    return seconds
