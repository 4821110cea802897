"""The operator's calls: what each does to a running engine.

An action is a method of ``Operator``; its keyword arguments are the ``args`` of the ``Control``
message, its return value is the ``value`` of the ``Reply``. What it refuses is a ``RequestError``,
whose status and message travel in the reply.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from tupelo.engine.live import look
from tupelo.engine.loop import EngineLoop
from tupelo.engine.messages import Control, FromEngine, Output, Outputs, Reply
from tupelo.engine.profiling import Profiling
from tupelo.engine.resident import Resident
from tupelo.errors import InvalidRequest, RequestError

logger = logging.getLogger(__name__)

PAUSE_MODES = ("abort", "retract", "in_place")


class Operator:
    """Answers ``Control`` messages, in the thread that drives the loop.

    Args:
        loop: of the engine. resident: what it keeps on the device.
        profiling: records its steps. stats: its counters and gauges.
    """

    def __init__(
        self,
        loop: EngineLoop,
        resident: Resident,
        profiling: Profiling,
        stats: Callable[[], dict[str, Any]],
    ) -> None:
        self._loop = loop
        self._resident = resident
        self._profiling = profiling
        self._stats = stats
        self._paused = False
        self._outputs: list[Output] = []
        self._actions: dict[str, Callable[..., Any]] = {
            "stats": stats,
            "live": self.live,
            "flush_cache": self.flush_cache,
            "pause": self.pause,
            "resume": self.resume,
            "update_weights": self.update_weights,
            "release_memory": self.release_memory,
            "resume_memory": self.resume_memory,
            "start_profile": self.start_profile,
            "stop_profile": profiling.stop,
        }

    def answer(self, message: Control) -> list[FromEngine]:
        """Do what a message asks; its reply, after the outputs of requests that it ended."""
        action = self._actions.get(message.action)
        if action is None:
            reply = Reply(message.number, False, f"unknown action {message.action!r}", 400)
        else:
            try:
                reply = Reply(message.number, True, action(**message.args))
            except RequestError as error:
                reply = Reply(message.number, False, str(error), error.status, error.param)
            except Exception:  # a defect in what an operator asked for; requests go on
                logger.exception("%s failed", message.action)
                text = f"{message.action} failed; the server's log has the details"
                reply = Reply(message.number, False, text, 500)
        outputs, self._outputs = self._outputs, []
        return [Outputs(outputs), reply] if outputs else [reply]

    def live(self, after: int = 0, salt: str | None = None) -> dict[str, Any]:
        """The counters, and what ``tupelo.engine.live.look`` sees."""
        return {"stats": self._stats(), **look(self._loop, after, salt)}

    def flush_cache(self) -> bool:
        """Empty the prefix cache; False where requests run or wait."""
        scheduler = self._loop.scheduler
        idle = not scheduler.num_running and not scheduler.num_waiting
        return idle and scheduler.cache.flush()

    def pause(self, mode: str = "abort") -> int:
        """Launch no further step; requests that come meanwhile wait. Returns how many are held.

        Args:
            mode: what becomes of live requests: ``abort`` ends them, ``retract`` takes their pages
                (they are computed again, and the cache can be flushed), ``in_place`` keeps all.

        Raises:
            InvalidRequest: no such mode.
        """
        if mode not in PAUSE_MODES:
            raise InvalidRequest(
                f"mode: got {mode!r:.60}; allowed: {', '.join(PAUSE_MODES)}", param="mode"
            )
        loop = self._loop
        self._paused = True
        self._hold()
        self._outputs += loop.drain()
        if mode == "abort":
            self._outputs += loop.abort()
        elif mode == "retract":
            loop.scheduler.retract_all()
        held = loop.scheduler.num_running + loop.scheduler.num_waiting
        logger.info("paused (%s); %d requests are held", mode, held)
        return held

    def resume(self) -> None:
        """Go on after a pause, where nothing is missing on the device."""
        self._paused = False
        self._hold()
        logger.info("resumed")

    def update_weights(
        self, path: str, abort_requests: bool = False, keep_paused: bool = False
    ) -> int:
        """Serve other weights of the same model; requests that run are computed again with them,
        from the tokens that they have. Returns how many that are.

        Args:
            path: a folder inside the allowed roots.
            abort_requests: end live requests instead.
            keep_paused: stay paused afterwards.

        Raises:
            InvalidRequest: a path or weights that cannot be taken; nothing has changed.
            RequestFailed: they could not be loaded; the old ones are served.
        """
        source = self._resident.open(path)
        loop = self._loop
        self._outputs += loop.drain()
        if abort_requests:
            self._outputs += loop.abort()
        loop.scheduler.retract_all()
        self._flush()
        try:
            self._resident.replace_weights(source)
            self._paused = self._paused or keep_paused
        finally:
            self._hold()
        return loop.scheduler.num_waiting

    def release_memory(self, tags: Sequence[str] | None = None) -> None:
        """Give device memory back; nothing is computed until it is resumed.

        Args:
            tags: see ``Resident.release``.

        Raises:
            InvalidRequest: an unknown tag, or requests run.
        """
        scheduler = self._loop.scheduler
        busy = scheduler.num_running + (0 if self._paused else scheduler.num_waiting)
        if busy:
            raise InvalidRequest(
                f"memory can be released when no request runs; {busy} do: wait for them, abort "
                "them, or pause generation with mode 'retract' first"
            )
        self._outputs += self._loop.drain()
        self._flush()
        try:
            self._resident.release(tags)
        finally:
            self._hold()

    def resume_memory(self, tags: Sequence[str] | None = None) -> None:
        """Take the memory again that ``release_memory`` gave back.

        Raises:
            InvalidRequest, RequestFailed: see ``Resident.resume``.
        """
        try:
            self._resident.resume(tags)
        finally:
            self._hold()

    def start_profile(self, **options: Any) -> None:
        """Record the next steps; ``options`` and errors are those of ``Profiling.start``."""
        self._profiling.start(self._loop.step_number, **options)

    def _flush(self) -> None:
        flushed = self._loop.scheduler.cache.flush()
        assert flushed, "no request holds pages"

    def _hold(self) -> None:
        """Let steps run only where nobody paused and nothing is missing."""
        self._loop.held = self._paused or bool(self._resident.missing)
