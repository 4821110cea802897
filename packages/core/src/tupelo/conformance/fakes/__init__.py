"""Backends that exist to test core: one that records, one that is hostile, one that does nothing.

``recording_backend`` and ``hostile_backend`` are factories as entry points name them, for
``python -m tupelo.conformance --backend tupelo.conformance.fakes:hostile_backend``.
"""

from tupelo.conformance.fakes.clock import DeviceClock, Moment
from tupelo.conformance.fakes.hostile import HostileFake, hostile_backend
from tupelo.conformance.fakes.null import NullFake
from tupelo.conformance.fakes.recording import RecordingFake, recording_backend

__all__ = [
    "DeviceClock",
    "HostileFake",
    "Moment",
    "NullFake",
    "RecordingFake",
    "hostile_backend",
    "recording_backend",
]
