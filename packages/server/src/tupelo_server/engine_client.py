"""Between the routes and the engine: jobs become engine requests, outputs become deltas.

Ids that clients choose never reach the engine. A client's id only names its own live requests, for
``abort``; the engine knows ids that are made here.
"""

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from tupelo.config import EngineConfig
from tupelo.engine.client import Health
from tupelo.engine.messages import EngineInfo, Output
from tupelo.engine.task import check_purpose
from tupelo.errors import EngineUnavailable, InvalidRequest, RequestError, RequestTimeout
from tupelo.request import FinishReason, Request
from tupelo_server.context import RequestContext, context
from tupelo_server.errors import ModelNotFound
from tupelo_server.generation import Delta, Job, SampleStream
from tupelo_server.merge import merge
from tupelo_server.metrics import Metrics
from tupelo_server.pooler import EnginePooler
from tupelo_server.pooling import Pooler
from tupelo_server.prompts import Prompts
from tupelo_server.request_log import RequestLog
from tupelo_server.sessions import SessionLimits, Sessions
from tupelo_server.stats import EngineStats
from tupelo_server.timing import SampleClock
from tupelo_server.tracing.hooks import begin_sample

MAX_SAMPLES = 4096
MAX_RID_LENGTH = 256


class Engine(Protocol):
    """What the server needs of ``tupelo.engine.client.EngineClient``."""

    num_dropped: int

    @property
    def info(self) -> EngineInfo: ...

    def submit(self, request: Request) -> AsyncGenerator[Output, None]: ...

    async def abort(self, rids: Iterable[str] = (), *, everything: bool = False) -> None: ...

    async def control(self, action: str, *, timeout_s: float = ..., **args: Any) -> Any: ...

    def expire(self, rid: str) -> None: ...

    def fail(self, rid: str, error: RequestError) -> None: ...

    def health(self) -> Health: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a request may take, in seconds; 0.0 means no limit.

    Attributes:
        queue_s: until its first step. total_s: from its arrival to its end; a request may ask for
            less.
        sessions: what sessions may hold.
    """

    queue_s: float = 0.0
    total_s: float = 0.0
    sessions: SessionLimits = field(default_factory=SessionLimits)


def tenant_salt(tenant: str, salt: str) -> str:
    """The cache namespace of a tenant's salt: another for each pair of the two.

    Args:
        tenant: digest of a key, of fixed length, or "" for a namespace that all share.
    """
    if not tenant:
        return salt
    return hashlib.blake2b(f"{tenant}/{salt}".encode(), digest_size=32).hexdigest()


def public_path(path: str) -> str:
    """A model's path as strangers may see it: of an absolute one only the last part."""
    local = path.startswith(("/", "~", "."))
    return path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf") if local else path


class Frontend:
    """One model and the way to it: runs jobs. Used by the event loop alone.

    All that another model has otherwise is here, so that a request that holds on to its frontend
    sees one model from its beginning to its end.

    Attributes:
        config: the engine's options, as this model was loaded with them.
        log: what is written of each request. limits: on their time.
        sampling_defaults: where a request to ``/v1`` has no value; what is missing is OpenAI's.
        weight_version: the operator's name for the weights that are served.
        held: an operator keeps the engine from computing; requests wait.
        former: names of models that this server had before, and this one has not.
        sessions: the conversations that are kept.
        pooler: of a model that makes embeddings, ranks or classifies; None of one that generates.
        stats: the engine's numbers. since: when it became ready.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Prompts,
        metrics: Metrics,
        log: RequestLog | None = None,
        limits: Limits | None = None,
        *,
        config: EngineConfig | None = None,
        sampling_defaults: Mapping[str, float] | None = None,
        weight_version: str = "default",
        former: Iterable[str] = (),
    ) -> None:
        self.engine = engine
        self.prompts = prompts
        self.pooler: Pooler | None = EnginePooler(self) if engine.info.pooling else None
        self.log = log or RequestLog()
        self.limits = limits or Limits()
        self.config = config or EngineConfig()
        self.sampling_defaults = dict(sampling_defaults or {})
        self.weight_version = weight_version
        self.held = False
        self.former = frozenset(former) - {self.model_name}
        self.stats = EngineStats(engine)
        self.since = datetime.now(UTC)
        self.sessions = Sessions(prompts.tokenizer, engine.abort, self.limits.sessions)
        self._metrics = metrics
        self._numbers = itertools.count()
        self._live: dict[tuple[str, str], set[str]] = {}
        self._closed = ""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def info(self) -> EngineInfo:
        """What is being served."""
        return self.engine.info

    @property
    def model_name(self) -> str:
        """The model's name in the API: the given one, else the last part of where it is."""
        return self.config.served_model_name or public_path(
            self.config.model or self.info.model_path
        )

    def check_name(self, name: str) -> None:
        """Refuse a request to a model that was unloaded: this one would answer instead.

        Raises:
            ModelNotFound: the name is of such a model.
        """
        if name in self.former:
            raise ModelNotFound(
                f"the model {name[:100]!r} is served no more; this server has {self.model_name!r}",
                param="model",
            )

    @property
    def open(self) -> bool:
        """Whether it takes new jobs."""
        return not self._closed

    @property
    def num_live(self) -> int:
        """Samples being worked on."""
        return sum(map(len, self._live.values()))

    def close(
        self, reason: str = "the server is stopping; send the request to another one"
    ) -> None:
        """Take no new jobs, and forget all sessions; jobs that run go on. ``reason``: what
        newcomers are told."""
        self._closed = reason
        self.sessions.clear()

    async def idle(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    def run(self, jobs: Sequence[Job], owner: str) -> AsyncGenerator[Delta, None]:
        """Deltas of all samples of all jobs, as they come; sample j of job i has index
        ``sum(n of the jobs before i) + j``. Closing the generator aborts what still runs.

        Args:
            owner: who asks; only the same owner can abort the jobs by their ids.

        Raises:
            InvalidRequest, ContextLengthExceeded: at once, before the engine hears of any.
            EngineUnavailable: the server is stopping, or the model being unloaded.
        """
        if self._closed:
            raise EngineUnavailable(self._closed)
        if not 0 < sum(job.params.n for job in jobs) <= MAX_SAMPLES:
            raise InvalidRequest(f"a request may ask for 1 to {MAX_SAMPLES} samples", param="n")
        streams: list[AsyncGenerator[Delta, None]] = []
        info = self.info
        for job in jobs:
            if len(job.rid) > MAX_RID_LENGTH:
                raise InvalidRequest(f"rid: at most {MAX_RID_LENGTH} characters", param="rid")
            samples = job.requests()
            check_purpose(samples[0], info.pooling)
            first = samples[0].checked(
                vocab_size=info.vocab_size, context_length=info.context_length
            )
            for sample in samples:  # they differ in their seeds alone: one check is enough
                params = replace(first.params, seed=sample.params.seed)
                request = replace(first, params=params)
                streams.append(self._sample(job, len(streams), request, owner))
        return merge(streams) if len(streams) > 1 else streams[0]

    async def collect(self, jobs: Sequence[Job], owner: str) -> list[Delta]:
        """Run jobs to their end; each sample's deltas folded into one, in the order of the index.

        Raises:
            RequestError: see ``run``.
        """
        found: dict[int, Delta] = {}
        async with aclosing(self.run(jobs, owner)) as deltas:
            async for delta in deltas:
                if delta.index in found:
                    found[delta.index].add(delta)
                else:
                    found[delta.index] = delta
        return [found[index] for index in sorted(found)]

    async def abort(self, rid: str, owner: str) -> None:
        """Abort the live requests that this owner knows by exactly this id; none is no error."""
        rids = self._live.get((owner, rid))
        if rids:
            await self.engine.abort(sorted(rids))

    async def abort_all(self) -> None:
        """Abort every request."""
        await self.engine.abort(everything=True)

    async def _sample(
        self, job: Job, index: int, request: Request, owner: str
    ) -> AsyncGenerator[Delta, None]:
        stream = SampleStream(
            job, index, self.prompts.tokenizer
        )  # may refuse: nothing is noted yet
        about = context()
        rid = f"s{next(self._numbers)}"
        key = (owner, job.rid)
        self._live.setdefault(key, set()).add(rid)
        self._idle.clear()
        clock = SampleClock(self._metrics, about, len(job.prompt.ids), streamed=job.stream)
        log = self.log.begin(job, rid, self.prompts.tokenizer)
        timers = self._timers(rid, about)
        trace = begin_sample(job, self.model_name, clock.sent_s)
        ended, failure = False, None
        try:
            if job.turn is not None:
                await job.turn.begin(job.rid, rid)
            salt = tenant_salt(about.tenant, request.salt)
            sent = replace(
                request, rid=rid, salt=salt, arrived_s=clock.sent_s, traced=trace is not None
            )
            outputs = self.engine.submit(sent)
            async with aclosing(stream.deltas(outputs)) as deltas:
                async for delta in deltas:
                    clock.count(delta)
                    if trace is not None:
                        trace.add(delta)
                    if job.turn is not None:
                        job.turn.add(delta.token_ids)
                    if about.hide_cached:
                        delta.cached_tokens = 0
                    if log is not None:
                        log.add(delta)
                    if delta.end is not None:
                        ended = delta.end.reason is not FinishReason.ABORT
                        timed = about.timing or job.timed
                        delta.spent = delta.spent if timed else None
                    yield delta
        except RequestError as error:
            failure = error
            raise
        finally:
            if job.turn is not None:
                job.turn.end(keep=failure is None)
            if trace is not None:
                trace.end(failure)
            for timer in timers:
                timer.cancel()
            self._metrics.num_aborted += not ended
            if log is not None:
                log.close()
            self._live[key].discard(rid)
            if not self._live[key]:
                del self._live[key]
            if not self._live:
                self._idle.set()

    def _timers(self, rid: str, about: RequestContext) -> list[asyncio.TimerHandle]:
        """What ends a sample that takes too long, whether or not the engine still answers."""
        loop, timers = asyncio.get_running_loop(), []
        if self.limits.queue_s:
            timers.append(loop.call_later(self.limits.queue_s, self.engine.expire, rid))
        wanted = [limit for limit in (about.timeout_s, self.limits.total_s) if limit]
        if wanted:
            limit = min(wanted)
            error = RequestTimeout(f"the request took longer than the {limit:g} s that it may")
            left_s = about.received_s + limit - time.monotonic()
            timers.append(loop.call_later(max(0.0, left_s), self.engine.fail, rid, error))
        return timers
