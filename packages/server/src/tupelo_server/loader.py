"""Which model is served: loading it, taking it away, loading another; one such change at a time.

Each model has an engine of its own, a process that ends with it: its memory is the system's again,
and nothing of it is left for the next one. The server's process keeps its socket. What it holds of
a model is the ``Frontend``, made whole before it is served.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tupelo import heap
from tupelo.config import EngineConfig
from tupelo.engine.client import EngineClient
from tupelo.engine.files import check_files
from tupelo.engine.messages import EngineInfo
from tupelo.errors import EngineUnavailable, RequestError
from tupelo.text.templates import TemplateRenderer
from tupelo.text.tokenizer import load_tokenizer
from tupelo_server.config import ServerConfig
from tupelo_server.engine_client import Frontend, Limits
from tupelo_server.prompts import Prompts
from tupelo_server.sessions import SessionLimits

if TYPE_CHECKING:
    from tupelo_server.state import ServerState

logger = logging.getLogger(__name__)

NO_MODEL = "no model is loaded; an administrator loads one with POST /load_model"
LEAVING = "the model is being unloaded; send the request to another server, or later"

ABORT_GRACE_S = 3
"""Aborted requests get this long to end their replies."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What may differ from one model of a server to the next.

    Attributes:
        engine: all options of the engine.
        chat_template: its source, instead of the model's. tool_call_parser, reasoning_parser: see
            ``Formats``. weight_version: the operator's name for the weights.
    """

    engine: EngineConfig
    chat_template: str | None
    tool_call_parser: str
    reasoning_parser: str
    weight_version: str


class Stage(StrEnum):
    """What a server has of a model."""

    EMPTY = "empty"
    LOADING = "loading"
    SERVING = "serving"
    UNLOADING = "unloading"


class Progress:
    """How far an engine's start is. Logs each phase once, and long ones now and then.

    Attributes:
        spent_s: seconds of each phase that is over, in order; the first ends when the engine's
            process says its first word.
    """

    def __init__(self) -> None:
        self.phase = ""
        self.fraction = 0.0
        self.spent_s: dict[str, float] = {}
        self._began_s = self._said_s = time.monotonic()

    def __call__(self, phase: str, fraction: float) -> None:
        now, self.fraction = time.monotonic(), fraction
        if phase != self.phase:
            self.end()
            self.phase, self._said_s = phase, now
            logger.info("engine: %s", phase)
        elif now - self._said_s > 10.0:
            self._said_s = now
            logger.info("engine: %s, %.0f %%", phase, fraction * 100)

    def end(self) -> None:
        """The phase is over."""
        now = time.monotonic()
        self.spent_s[self.phase or "start the engine's process"] = now - self._began_s
        self._began_s = now


class ModelChanging(RequestError):
    """Another model is being loaded, or this one unloaded."""

    status = 409
    code = "model_changing"


class ModelLoader:
    """Loads and unloads the model of a server. Used by the event loop alone.

    Attributes:
        on_death: called with the exit code if an engine ends without being told to.
        stage: what there is now. progress: of a model that is being loaded, its phase and how much
            of that is done.
    """

    def __init__(self, state: "ServerState") -> None:
        self._state = state
        self._engine: EngineClient | None = None
        self._change: asyncio.Task[Any] | None = None
        self._former: set[str] = set()
        self.stage = Stage.EMPTY
        self.progress = Progress()
        self.on_death: Callable[[int], None] | None = None

    async def load(self, options: ModelOptions, *, drain_s: float = 0.0) -> Frontend:
        """Serve this model from now on, instead of the one that there is.

        Args:
            drain_s: seconds that requests of the old model may take to end.

        Raises:
            ModelChanging: a change is under way.
            TupeloError: the model cannot be loaded. Where its files tell, the old one is still
                served; where only loading shows it, none is.
        """
        return await self._alone(self._replace(options, drain_s))

    async def unload(self, *, drain_s: float = 0.0) -> None:
        """Serve no model; none is there already: nothing to do.

        Raises:
            ModelChanging: a change is under way.
        """
        await self._alone(self._take_away(drain_s))

    async def cancel(self) -> None:
        """Give up a change that is under way."""
        if self._change is not None:
            self._change.cancel()
            await asyncio.wait([self._change])

    async def close(self) -> None:
        """End whatever engine there is, and what belongs to it."""
        await self.cancel()
        if self._engine is not None:
            await self._engine.stop()
        if self._state.frontend is not None:
            self._state.frontend.prompts.close()

    async def _alone(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` to its end, whether or not the caller waits for it."""
        if self._change is not None and not self._change.done():
            work.close()
            raise ModelChanging("a model is being loaded or unloaded; try again when that is done")
        change = self._change = asyncio.create_task(work)
        try:
            return await asyncio.shield(change)
        except asyncio.CancelledError:
            if change.cancelled():
                raise EngineUnavailable("the server is stopping; the model was not changed") from (
                    None
                )
            raise

    async def _replace(self, options: ModelOptions, drain_s: float) -> Frontend:
        if self._state.frontend is not None:
            await asyncio.to_thread(_check_files, options.engine)
            await self._take_away(drain_s)
        return await self._bring(options)

    async def _take_away(self, drain_s: float) -> None:
        """End the engine once its requests have ended, by themselves or by force."""
        state, engine, frontend = self._state, self._engine, self._state.frontend
        if engine is None or frontend is None:
            return
        logger.info("unloading %s", frontend.model_name)
        self.stage = Stage.UNLOADING
        engine.on_death = None
        frontend.close(LEAVING)
        if not await _idle(frontend, 0.0 if frontend.held else drain_s):
            await frontend.abort_all()
            await _idle(frontend, ABORT_GRACE_S)
        self._former.add(frontend.model_name)
        state.frontend, state.absent, state.empty = None, NO_MODEL, True
        state.metrics = state.metrics.anew()
        await engine.stop()
        self._engine = None
        frontend.prompts.close()
        self.stage = Stage.EMPTY
        del frontend
        heap.collect()  # vocabularies are large, and what holds them is in cycles
        logger.info("no model is loaded")

    async def _bring(self, options: ModelOptions) -> Frontend:
        """Start an engine, and serve its model once everything is there."""
        state, config = self._state, self._state.config
        began = time.monotonic()
        engine = EngineClient(
            options.engine, log_level=config.log_level, log_format=config.log_format
        )
        engine.on_death = self.on_death
        self._engine = engine
        self.stage, self.progress = Stage.LOADING, Progress()
        state.absent = "the model is being loaded"
        try:
            frontend = await self._start(engine, options)
        except BaseException:
            await engine.stop()
            self._engine = None
            self.stage, state.absent = Stage.EMPTY, NO_MODEL
            raise
        state.frontend, self.stage = frontend, Stage.SERVING
        self.progress.end()
        heap.set_aside()
        info = frontend.info
        logger.info(
            "ready in %.1f s: %s (%s, %s on %s)",
            time.monotonic() - began,
            frontend.model_name,
            info.architecture,
            info.dtype,
            info.backend,
        )
        return frontend

    async def _start(self, engine: EngineClient, options: ModelOptions) -> Frontend:
        state, config = self._state, self._state.config
        info = await _started(engine, options.engine, self.progress)
        self.progress("read the tokenizer", 0.0)
        tokenizer = await asyncio.to_thread(load_tokenizer, info.tokenizer_path)
        prompts = Prompts(
            tokenizer,
            TemplateRenderer(),
            options.chat_template,
            context_length=info.context_length,
            tool_call_parser=options.tool_call_parser,
            reasoning_parser=options.reasoning_parser,
        )
        logger.info("formats: %s", prompts.formats)
        from_model = config.sampling_defaults == "model"
        return Frontend(
            engine,
            prompts,
            state.metrics,
            state.log,
            limits_of(config),
            config=options.engine,
            sampling_defaults=info.generation_defaults if from_model else {},
            weight_version=options.weight_version,
            former=self._former,
        )


def limits_of(config: ServerConfig) -> Limits:
    """What requests and sessions may take, as the operator has it."""
    return Limits(
        queue_s=config.max_queue_time_s,
        total_s=config.max_request_time_s,
        sessions=SessionLimits(
            count=config.max_sessions,
            num_tokens=config.max_session_tokens,
            idle_s=config.session_timeout_s,
        ),
    )


async def _started(engine: EngineClient, config: EngineConfig, progress: Progress) -> EngineInfo:
    """Start the engine, and look meanwhile whether it will be in vain: it learns of a tokenizer
    last of all. A model that is not here yet is the engine's to fetch.

    Raises:
        TupeloError: what either of them found.
    """
    starting = asyncio.create_task(engine.start(progress))
    tasks: list[asyncio.Task[Any]] = [starting]
    if config.model and Path(config.model).exists():
        tasks.append(asyncio.create_task(asyncio.to_thread(_check_files, config)))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        starting.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return starting.result()


async def _idle(frontend: Frontend, limit_s: float) -> bool:
    """Whether all requests end within so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await frontend.idle()
    return not frontend.num_live


def _check_files(config: EngineConfig) -> None:
    """What can be told of a model from its files, without loading it.

    Raises:
        TupeloError: it cannot be served.
    """
    load_tokenizer(check_files(config))
