"""What a backend's factory may answer; named as ``tests.kit.answers:NAME``."""

from tests.kit.mutants import BASE, MUTANTS

from tupelo.backend import Backend, Unavailable


def good() -> Backend:
    """Core's defaults."""
    return BASE


def bad() -> Backend:
    """A mutant."""
    return MUTANTS["strided_input_misread"].backend


def unavailable() -> Unavailable:
    """A reason."""
    return Unavailable("no such accelerator; plug one in")


def silent() -> Unavailable:
    """No reason, which is a breach."""
    return Unavailable(" ")


def raising() -> Backend:
    """An error."""
    raise OSError("driver too old")


def something_else() -> object:
    """No backend at all."""
    return {"name": "a dictionary"}
