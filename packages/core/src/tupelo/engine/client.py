"""The engine's process as its parent sees it: started, talked to, watched, stopped. Imports no
torch."""

import asyncio
import contextlib
import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import zmq

from tupelo import errors
from tupelo.config import EngineConfig, engine_environment
from tupelo.engine.messages import (
    HEARTBEAT_S,
    Abort,
    Control,
    EngineInfo,
    Expire,
    Heartbeat,
    Output,
    Outputs,
    Progress,
    Reply,
    Shutdown,
    StartFailed,
    Submit,
    ToEngine,
    decode_from_engine,
    encode,
    refusal,
)
from tupelo.errors import EngineUnavailable, RequestError, TupeloError
from tupelo.request import Request

SILENT_S = 6 * HEARTBEAT_S
"""Without a heartbeat for this long, the engine counts as frozen."""

RETRY_MS = 20
"""Between two attempts to reach the engine's socket while it starts."""

CONTROL_S = 60.0
"""For an operator's call, which waits for the step that runs: with a large model on a busy machine
that is long. Of an engine that hangs the watchdog tells."""

STOP_S = 5.0
"""A process that has not ended this long after being told to is killed."""


class Health(NamedTuple):
    """Whether requests can be served, and if not, why."""

    ready: bool
    reason: str = ""


class EngineClient:
    """One engine process. All methods belong to one asyncio event loop.

    Args:
        config: of the engine. log_level, log_format: of its process.

    Attributes:
        on_death: called once, with the exit code, if the process ends without being told to.
        num_dropped: messages from the engine that could not be decoded.
    """

    def __init__(
        self, config: EngineConfig, *, log_level: str = "info", log_format: str = "text"
    ) -> None:
        self._config = config
        self._log = {"log_level": log_level, "log_format": log_format}
        self._process: asyncio.subprocess.Process | None = None
        self._folder: Path | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._streams: dict[str, asyncio.Queue[Output | None]] = {}
        self._unheard: set[str] = set()
        self._failures: dict[str, RequestError] = {}
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0
        self._info: EngineInfo | None = None
        self._started: asyncio.Future[EngineInfo] | None = None
        self._heard_s = 0.0
        self._step_age_s = 0.0
        self._dead = ""
        self._stopping = False
        self._on_progress: Callable[[str, float], None] | None = None
        self.on_death: Callable[[int], None] | None = None
        self.num_dropped = 0

    @property
    def info(self) -> EngineInfo:
        """What is being served.

        Raises:
            EngineUnavailable: the engine is not ready yet.
        """
        if self._info is None:
            raise EngineUnavailable("the engine is still starting")
        return self._info

    async def start(self, on_progress: Callable[[str, float], None] | None = None) -> EngineInfo:
        """Start the process, and wait until it can serve.

        Raises:
            TupeloError: what kept it from starting, of the class that it was raised as there.
        """
        self._on_progress = on_progress
        self._folder = Path(tempfile.mkdtemp(prefix="tupelo-"))  # mode 0700
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._outbox = context.socket(zmq.PUSH)
        self._outbox.set_hwm(0)
        self._outbox.setsockopt(zmq.RECONNECT_IVL, RETRY_MS)
        self._outbox.connect(f"ipc://{self._folder / 'to-engine'}")  # bound by the engine
        self._inbox = context.socket(zmq.PULL)
        self._inbox.set_hwm(0)
        self._inbox.bind(f"ipc://{self._folder / 'from-engine'}")
        loop = asyncio.get_running_loop()
        loop.add_reader(self._inbox.fileno(), self._read)
        self._started = loop.create_future()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # no modules from the working directory, which may be a model's folder
            "-m",
            "tupelo.engine.worker",
            str(self._folder),
            stdin=asyncio.subprocess.PIPE,
            env=engine_environment(),
        )
        assert self._process.stdin is not None
        first = {"config": dataclasses.asdict(self._config), **self._log}
        self._process.stdin.write(msgspec.json.encode(first) + b"\n")
        await self._process.stdin.drain()
        self._tasks = [asyncio.create_task(self._watch(self._process))]
        try:
            self._info = await self._started
        except BaseException:
            await self.stop()
            raise
        return self._info

    async def submit(self, request: Request) -> AsyncGenerator[Output, None]:
        """Serve a request; yields its outputs, the last of which has ``finish``.

        Closing or cancelling the generator aborts the request.

        Raises:
            EngineUnavailable: the engine is not ready, or died meanwhile.
        """
        self._refuse_if_dead()
        queue: asyncio.Queue[Output | None] = asyncio.Queue()
        assert request.rid not in self._streams, "request ids are the server's own, and unique"
        self._streams[request.rid] = queue
        self._unheard.add(request.rid)
        finished = False
        try:
            self._send(Submit([request]))
            while not finished:
                output = await queue.get()
                if output is None:
                    raise self._failures.get(request.rid) or EngineUnavailable(self._dead)
                finished = output.finish is not None
                yield output
        finally:
            del self._streams[request.rid]
            self._unheard.discard(request.rid)
            self._failures.pop(request.rid, None)
            if not finished and not self._dead:
                self._send(Abort([request.rid]))

    async def abort(self, rids: Iterable[str] = (), *, everything: bool = False) -> None:
        """Abort live requests by their internal ids, or all of them; unknown ids are ignored."""
        self._send(Abort(list(rids), everything))

    def expire(self, rid: str) -> None:
        """End a live request with a ``QueueTimeout`` unless a step has served it."""
        self._send(Expire([rid]))

    def fail(self, rid: str, error: RequestError) -> None:
        """End a live request with this error at once, whether the engine answers or not."""
        queue = self._streams.get(rid)
        if queue is not None:
            self._failures[rid] = error
            queue.put_nowait(None)

    async def control(self, action: str, *, timeout_s: float = CONTROL_S, **args: Any) -> Any:
        """An operator's call; ``tupelo.engine.control`` has the actions and their ``args``.

        Raises:
            EngineUnavailable: dead, or no answer in time.
            RequestError: the engine refuses, with the status that the error has there.
        """
        self._refuse_if_dead()
        self._number += 1
        number = self._number
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        try:
            self._send(Control(number, action, args))
            reply = await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise EngineUnavailable(f"the engine did not answer in {timeout_s:g} s") from None
        finally:
            del self._replies[number]
        if not reply.ok:
            raise refusal(reply)
        return reply.value

    def health(self) -> Health:
        """Whether requests can be served now, from heartbeats alone: asks the engine nothing."""
        if self._dead:
            return Health(False, self._dead)
        if self._stopping:
            return Health(False, "the engine is stopping")
        if self._info is None:
            return Health(False, "the engine is starting")
        silent_s = time.monotonic() - self._heard_s
        if silent_s > SILENT_S:
            return Health(False, f"the engine has been silent for {silent_s:.1f} s")
        if self._step_age_s > self._config.watchdog_timeout_s:
            return Health(False, f"the engine's step has taken {self._step_age_s:.0f} s")
        return Health(True)

    async def stop(self) -> None:
        """End the process and remove what belongs to it. May be called twice."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            if self._info is None:  # it listens to nobody before it is ready
                process.terminate()
            self._send(Shutdown())
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._folder is not None:
            asyncio.get_running_loop().remove_reader(self._inbox.fileno())
            self._outbox.close(linger=0)
            self._inbox.close(linger=0)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self._end_streams("the engine has stopped")

    def _send(self, message: ToEngine) -> None:
        """Send without waiting: the queue is unbounded, so this never blocks. Nobody hears it after
        the end."""
        with contextlib.suppress(zmq.ZMQError):
            self._outbox.send(encode(message), zmq.NOBLOCK)

    def _read(self) -> None:
        """Take all that has come: the socket's descriptor tells of the first message alone."""
        while True:
            try:
                data = self._inbox.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode_from_engine(data)
            except msgspec.DecodeError:
                self.num_dropped += 1
                continue
            self._heard_s = time.monotonic()
            self._take(message)

    def _take(self, message: Any) -> None:
        match message:
            case Outputs(items):
                if self._unheard:  # whoever has nothing yet waits for nobody's next token
                    items.sort(key=lambda output: output.rid not in self._unheard)
                    self._unheard.difference_update(output.rid for output in items)
                for output in items:
                    queue = self._streams.get(output.rid)
                    if queue is not None:
                        queue.put_nowait(output)
            case Heartbeat(step_age_s=age):
                self._step_age_s = age
            case Reply(number=number):
                future = self._replies.get(number)
                if future is not None and not future.done():
                    future.set_result(message)
            case Progress(phase, fraction):
                if self._on_progress is not None:
                    self._on_progress(phase, fraction)
            case EngineInfo():
                self._settle(message)
            case StartFailed(kind, text):
                known = getattr(errors, kind, TupeloError)
                self._settle(known(text))

    def _settle(self, outcome: EngineInfo | TupeloError) -> None:
        """The start has succeeded or failed."""
        if self._started is None or self._started.done():
            return
        if isinstance(outcome, EngineInfo):
            self._started.set_result(outcome)
        else:
            self._started.set_exception(outcome)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Tell everyone who waits when the process ends."""
        code = await process.wait()
        await asyncio.sleep(0.1)  # a last message, such as StartFailed, may still be on its way
        if self._stopping:
            return
        self._end_streams(f"the engine process died (exit code {code})")
        self._settle(EngineUnavailable(self._dead))
        if self._info is not None and self.on_death is not None:
            self.on_death(code)

    def _end_streams(self, reason: str) -> None:
        self._dead = self._dead or reason
        for queue in self._streams.values():
            queue.put_nowait(None)
        for future in self._replies.values():
            if not future.done():
                future.set_exception(EngineUnavailable(reason))

    def _refuse_if_dead(self) -> None:
        if self._dead:
            raise EngineUnavailable(self._dead)
        if self._info is None:
            raise EngineUnavailable("the engine is still starting")
