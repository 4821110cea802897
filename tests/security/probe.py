"""Watches whether the server's event loop still turns."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

PAUSE_S = 1.0
"""A pause as long as this is no load of the machine: something ran on the loop that should not."""


@dataclass
class Pulse:
    """The longest that ``/health`` took, which asks nobody but the event loop."""

    longest_s: float = 0.0
    num_probes: int = 0


@contextmanager
def pulse(url: str) -> Iterator[Pulse]:
    """Probe the server all the while; at the end no probe may have waited ``PAUSE_S``."""
    found = Pulse()
    ending = threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while found.num_probes == 0 or not ending.wait(0.01):
                begin = time.monotonic()
                client.get("/health")
                found.longest_s = max(found.longest_s, time.monotonic() - begin)
                found.num_probes += 1

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield found
    finally:
        ending.set()
        thread.join()
    assert found.longest_s < PAUSE_S, f"the event loop stood still for {found.longest_s:.2f} s"
