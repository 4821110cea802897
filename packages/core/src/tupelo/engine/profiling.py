"""Recording what steps do, between two calls of the operator, into a file that a browser shows."""

import contextlib
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tupelo.backend import Profile, Runtime
from tupelo.checkpoint.roots import new_inside
from tupelo.errors import InvalidRequest, RequestFailed
from tupelo.request import MAX_INT32, check_int

logger = logging.getLogger(__name__)

ACTIVITIES: Final = ("CPU", "GPU")
"""What can be recorded, in SGLang's words: the host, and the device whatever it is."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Profiling:
    """At most one recording at a time. Used by the engine's thread alone.

    Args:
        runtime: records. root: folder for files, "" to refuse.
    """

    def __init__(self, runtime: Runtime, root: str) -> None:
        self._runtime = runtime
        self._root = root
        self._profile: Profile | None = None
        self._path = Path()
        self._options: dict[str, bool] = {}
        self._waiting = False
        self._begin = 0
        self._end: int | None = None

    def start(
        self,
        step: int,
        *,
        output_dir: str = "",
        num_steps: int | None = None,
        start_step: int | None = None,
        activities: Sequence[str] | None = None,
        with_stack: bool = False,
        record_shapes: bool = False,
        prefix: str = "profile",
    ) -> None:
        """Record from now, or from a step on.

        Args:
            step: number of the last step.
            output_dir: folder inside the root. num_steps: end by itself after so many.
            start_step: number of the first step. activities: of ``ACTIVITIES``; None means all.
            prefix: of the file's name.

        Raises:
            InvalidRequest: one runs already, or an argument that cannot be taken.
        """
        if self._profile is not None or self._waiting:
            raise InvalidRequest("a profile is being recorded already; stop it first")
        unknown = [name for name in activities or () if name not in ACTIVITIES]
        if unknown:
            raise InvalidRequest(
                f"activities: got {unknown[0]!r:.60}; allowed: {', '.join(ACTIVITIES)}",
                param="activities",
            )
        if not _PREFIX.fullmatch(prefix):
            raise InvalidRequest(
                f"profile_prefix: got {prefix!r:.60}; letters, digits, - and _, at most 64",
                param="profile_prefix",
            )
        begin = (
            step + 1 if start_step is None else check_int("start_step", start_step, 0, MAX_INT32)
        )
        folder = new_inside(output_dir, self._root, param="output_dir", option="--profile-dir")
        self._path = folder / f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{step}.trace.json.gz"
        self._options = {
            "on_device": activities is None or "GPU" in activities,
            "with_stack": with_stack,
            "record_shapes": record_shapes,
        }
        self._begin = max(begin, step + 1)
        self._end = None
        if num_steps is not None:
            self._end = self._begin + check_int("num_steps", num_steps, 1, MAX_INT32)
        self._waiting = True
        self.after(step)

    def stop(self) -> str:
        """End the recording. Returns the file's name inside the root, "" if no step was recorded.

        Raises:
            InvalidRequest: none runs. RequestFailed: the file could not be written.
        """
        if self._profile is None and not self._waiting:
            raise InvalidRequest("no profile is being recorded; start one first")
        self._waiting = False
        return "" if self._profile is None else self._write(self._profile)

    def close(self) -> None:
        """Write what has been recorded so far; torch crashes at exit if its recorder still runs."""
        self._waiting = False
        if self._profile is not None:
            with contextlib.suppress(RequestFailed):  # it is in the log
                self._write(self._profile)

    def after(self, step: int) -> None:
        """Begin or end between two steps, where that was asked for; ``step`` is the last one."""
        if self._waiting and step + 1 >= self._begin:
            self._waiting = False
            self._profile = self._runtime.profile(**self._options)
        if self._profile is not None and self._end is not None and step + 1 >= self._end:
            with contextlib.suppress(RequestFailed):  # it is in the log, and steps go on
                self._write(self._profile)

    def _write(self, profile: Profile) -> str:
        self._profile = None
        try:
            profile.stop(self._path)
        except (OSError, RuntimeError) as error:
            logger.exception("could not write the profile %s", self._path.name)
            raise RequestFailed("the profile could not be written; see the server's log") from error
        logger.info("wrote the profile %s", self._path.name)
        return str(self._path.relative_to(Path(self._root).resolve()))
