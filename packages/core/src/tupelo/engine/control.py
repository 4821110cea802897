"""The operator's calls: what each does to a running engine.

An action is a method of ``Operator``; its keyword arguments are the ``args`` of the ``Control``
message, its return value is the ``value`` of the ``Reply``. What it refuses is a ``RequestError``,
whose status and message travel in the reply.
"""

import logging
from collections.abc import Callable
from typing import Any

from tupelo.engine.loop import EngineLoop
from tupelo.engine.messages import Control, FromEngine, Output, Outputs, Reply
from tupelo.errors import InvalidRequest, RequestError

logger = logging.getLogger(__name__)

PAUSE_MODES = ("abort", "retract", "in_place")


class Operator:
    """Answers ``Control`` messages, in the thread that drives the loop.

    Args:
        loop: of the engine. stats: its counters and gauges.
    """

    def __init__(self, loop: EngineLoop, stats: Callable[[], dict[str, Any]]) -> None:
        self._loop = loop
        self._outputs: list[Output] = []
        self._actions: dict[str, Callable[..., Any]] = {
            "stats": stats,
            "flush_cache": self.flush_cache,
            "pause": self.pause,
            "resume": self.resume,
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
        outputs, self._outputs = self._outputs, []
        return [Outputs(outputs), reply] if outputs else [reply]

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
        loop.held = True
        self._outputs += loop.drain()
        if mode == "abort":
            self._outputs += loop.abort()
        elif mode == "retract":
            loop.scheduler.retract_all()
        held = loop.scheduler.num_running + loop.scheduler.num_waiting
        logger.info("paused (%s); %d requests are held", mode, held)
        return held

    def resume(self) -> None:
        """Go on after a pause."""
        self._loop.held = False
        logger.info("resumed")
