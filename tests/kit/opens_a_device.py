"""A backend's module with bad manners: importing it opens a device node."""

import os

from tests.kit.mutants import BASE

from tupelo.backend import Backend

HANDLE = os.open("/dev/ptmx", os.O_RDONLY | os.O_NOCTTY)


def backend() -> Backend:
    """Core's defaults."""
    return BASE
