"""Probes, and what Prometheus reads. None of them asks the engine for work, but for
``/health_generate``, which says so."""

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import RequestError
from tupelo.pooling import PoolingParams
from tupelo.request import SamplingParams
from tupelo_server.access import Access, opened_to
from tupelo_server.errors import NotFound
from tupelo_server.generation import Job, Prompt
from tupelo_server.protocol.openai import new_id
from tupelo_server.state import ServerState, state_of

router = APIRouter()

PUBLIC = opened_to(Access.PUBLIC)

PROBE_TIMEOUT_S = 20.0


@router.get("/health", openapi_extra=PUBLIC)
async def health(request: Request) -> Response:
    """200 while the engine beats, and where an administrator took the model away; 503 while the
    server starts, or its engine is frozen or dead. Empty."""
    return _empty(ready=state_of(request).alive)


@router.get("/ready", openapi_extra=PUBLIC)
async def ready(request: Request) -> Response:
    """Like ``/health``, and 503 where requests would fail or wait: there is no model, the server
    has been told to stop, or an operator holds the engine."""
    state = state_of(request)
    frontend = state.frontend
    return _empty(ready=_open(state) and frontend is not None and not frontend.held)


@router.get("/health_generate", openapi_extra=PUBLIC)
async def health_generate(request: Request) -> Response:
    """Generate one token, or pool one, if nothing runs; a server that is busy or held has its
    heartbeats to show."""
    state = state_of(request)
    frontend = state.frontend
    if not _open(state) or frontend is None:
        return _empty(ready=False)
    if frontend.num_live or frontend.held:
        return _empty(ready=True)
    pools = frontend.pooler is not None
    job = Job(
        prompt=Prompt((0,)),
        params=SamplingParams(max_new_tokens=0 if pools else 1, temperature=0.0, ignore_eos=True),
        rid=new_id("probe"),
        pooling=PoolingParams() if pools else None,
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await frontend.collect([job], "")
    except (RequestError, TimeoutError):
        return _empty(ready=False)
    return _empty(ready=True)


@router.get("/metrics", openapi_extra=PUBLIC)
async def metrics(request: Request) -> Response:
    """Prometheus text; without the engine's own numbers while it does not answer."""
    state = state_of(request)
    if not state.config.enable_metrics:
        raise NotFound("metrics are switched off")
    frontend, metrics = state.frontend, state.metrics
    stats = {} if frontend is None else await frontend.stats.now()
    stats["engine_up"] = int(state.health().ready)
    stats["messages_dropped"] = 0 if frontend is None else frontend.engine.num_dropped
    if frontend is not None:
        stats["num_sessions"] = frontend.sessions.count
        stats["session_tokens"] = frontend.sessions.num_tokens
    metrics.model_name = "" if frontend is None else frontend.model_name
    return Response(metrics.render(stats), media_type=CONTENT_TYPE_LATEST)


def _open(state: ServerState) -> bool:
    """Whether a request that comes now is served."""
    frontend = state.frontend
    return frontend is not None and frontend.open and state.health().ready and not state.draining


def _empty(*, ready: bool) -> Response:
    return Response(status_code=200 if ready else 503)
