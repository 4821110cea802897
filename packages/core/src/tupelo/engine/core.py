"""The engine behind its messages: what a message does, and what a step sends back.

One thread drives it: a thread of this process (``Engine``) or the main thread of an engine process
(``tupelo.engine.worker``).
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tupelo.engine.build import Built, scheduler_config
from tupelo.engine.control import Operator
from tupelo.engine.executor import InProcessExecutor
from tupelo.engine.grammars import open_grammars
from tupelo.engine.loop import EngineLoop, refused
from tupelo.engine.messages import (
    Abort,
    Control,
    Expire,
    FromEngine,
    Output,
    Outputs,
    Shutdown,
    Submit,
    ToEngine,
)
from tupelo.engine.profiling import Profiling
from tupelo.engine.resident import Resident
from tupelo.engine.task import check_purpose
from tupelo.errors import RequestError, RequestFailed
from tupelo.request import Request
from tupelo.scheduler import Scheduler

logger = logging.getLogger(__name__)


class EngineCore:
    """Scheduler, loop and the operator's calls of one engine.

    Args:
        wake: called from any thread when ``has_work`` has become true without a message.
        trusted: requests have been checked by whoever sends them, in this process.

    Attributes:
        loop: for its step clock, which the heartbeat reads.
        stopping: a ``Shutdown`` has arrived.
    """

    def __init__(self, built: Built, wake: Callable[[], None], *, trusted: bool = False) -> None:
        self._built = built
        self._trusted = trusted
        self._grammars = open_grammars(built.config, built.info, wake)
        self._scheduler = Scheduler(scheduler_config(built))
        self.loop = EngineLoop(
            self._scheduler,
            InProcessExecutor(built),
            built.info.vocab_size,
            depth=built.config.pipeline_depth,
            grammars=self._grammars,
            check_integrity=built.config.check_integrity,
        )
        self._profiling = Profiling(built.runtime, built.config.profile_dir)
        self._operator = Operator(
            self.loop, Resident(built.config, built), self._profiling, self.stats
        )
        self.stopping = False

    def has_work(self) -> bool:
        """Whether ``step`` has anything to do."""
        return self.loop.has_work()

    def patience_s(self) -> float:
        """Seconds for which a message is better waited for than ``step`` called; 0.0: none."""
        return self.loop.patience_s()

    def handle(self, message: ToEngine) -> list[FromEngine]:
        """Act on a message; returns what to send back at once."""
        match message:
            case Submit(requests):
                refusals = [self._refusal(request) for request in requests]
                outputs = [output for output in refusals if output is not None]
                return [Outputs(outputs)] if outputs else []
            case Abort(rids, everything):
                outputs = self.loop.abort(None if everything else rids)
                return [Outputs(outputs)] if outputs else []
            case Expire(rids):
                outputs = self.loop.expire(rids)
                return [Outputs(outputs)] if outputs else []
            case Control():
                return self._operator.answer(message)
            case Shutdown():
                self.stopping = True
        return []

    def step(self) -> list[FromEngine]:
        """One step of the loop."""
        outputs = self.loop.step()
        self._profiling.after(self.loop.step_number)
        return [Outputs(outputs)] if outputs else []

    def close(self) -> None:
        """End what runs beside the loop: a recording, threads and processes for grammars."""
        self._profiling.close()
        if self._grammars is not None:
            self._grammars.compiler.close()

    def stats(self) -> dict[str, Any]:
        """Counters and gauges, plain numbers by name; page figures are lists, one entry a group."""
        cache, built = self._scheduler.cache.stats(), self._built
        pages = {
            f"pages_{name}": [getattr(group, name) for group in cache.groups]
            for name in ("total", "free", "owned", "cached", "available", "evicted")
        }
        return {
            **asdict(self._scheduler.counters),
            **pages,
            "num_running": self._scheduler.num_running,
            "num_waiting": self._scheduler.num_waiting,
            "page_size": self._scheduler.config.page_size,
            "num_nodes": cache.num_nodes,
            "lookup_tokens": cache.num_lookup_tokens,
            "hit_tokens": cache.num_hit_tokens,
            "paused": int(self.loop.held),
            "num_grammar_waiting": 0 if self._grammars is None else len(self._grammars),
            **({} if self._grammars is None else self._grammars.compiler.stats()),
            "builds_after_ready": built.backend.builds() - built.builds_when_ready,
        }

    def _refusal(self, request: Request) -> Output | None:
        """Take a request in; where that cannot be, its only output."""
        info = self._built.info
        try:
            check_purpose(request, info.pooling)
            if not self._trusted:
                request = request.checked(
                    vocab_size=info.vocab_size, context_length=info.context_length
                )
            self.loop.submit(request)
        except RequestError as error:
            return refused(request.rid, error)
        except Exception:  # a defect that this request has found; the others go on
            logger.exception("a request could not be taken in")
            text = "the request could not be taken in; the server's log has the details"
            return refused(request.rid, RequestFailed(text))
        return None
