"""What the kit runs and what comes of it: ``Case``, ``Result``, and running one against the other.

A case is one check with a stable id, such as ``attention/decode/page_4``. It fails by raising, is
skipped by carrying a reason, and may return what it measured. One case's failure never keeps
another from running.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tupelo.ops.compare import Differs

LEVELS = {0: "contract", 1: "ops", 2: "attention and KV", 3: "engine", 4: "collectives"}
"""Levels of the kit; level 5, the server, is tupelo-server's."""


class CheckFailed(AssertionError):
    """A backend does not do what the contract says; the message has what was got and wanted."""


class Status(StrEnum):
    """What became of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    KNOWN_FAILURE = "known failure"
    UNEXPECTED_PASS = "unexpected pass"


@dataclass(frozen=True, slots=True)
class Measured:
    """How far a kernel is from the op computed in float32.

    Attributes:
        op, dtype, kernel, tier: what ran; ``chosen`` if a model would have got this kernel.
        max_error: largest absolute difference. share: of the tolerance, at the worst element.
    """

    op: str
    dtype: str
    kernel: str
    tier: str
    chosen: bool
    max_error: float
    share: float


@dataclass(frozen=True, slots=True)
class Case:
    """One check.

    Attributes:
        id: stable and readable; its first part names the suite.
        level: see ``LEVELS``.
        run: raises if the check fails.
        skip: why it does not apply to this backend; then ``run`` is not called.
    """

    id: str
    level: int
    run: Callable[[], Measured | None]
    skip: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case; ``message`` has the reason of anything but a pass."""

    id: str
    level: int
    status: Status
    message: str = ""
    details: str = ""
    seconds: float = 0.0
    measured: Measured | None = None


def run_case(case: Case) -> Result:
    """Run one case; whatever it raises is its failure."""
    if case.skip:
        return Result(case.id, case.level, Status.SKIPPED, case.skip)
    start = time.perf_counter()
    try:
        measured = case.run()
    except Exception as error:  # a broken part can raise anything; the report carries it
        seconds = time.perf_counter() - start
        message = (
            str(error) if isinstance(error, CheckFailed | Differs) else f"{_name(error)}: {error}"
        )
        return Result(
            case.id, case.level, Status.FAILED, message, traceback.format_exc(limit=-6), seconds
        )
    seconds = time.perf_counter() - start
    return Result(case.id, case.level, Status.PASSED, seconds=seconds, measured=measured)


def check(condition: bool, message: str) -> None:
    """Fail the running case with ``message`` unless ``condition`` holds."""
    if not condition:
        raise CheckFailed(message)


def _name(error: Exception) -> str:
    return type(error).__name__
