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
    """200 while the engine beats, 503 while it starts, stops, is frozen or dead. Empty."""
    return _empty(ready=state_of(request).health().ready)


@router.get("/ready", openapi_extra=PUBLIC)
async def ready(request: Request) -> Response:
    """Like ``/health``, and 503 where requests would wait: the server has been told to stop, or an
    operator holds the engine."""
    state = state_of(request)
    return _empty(ready=state.health().ready and _open(state) and not state.held)


@router.get("/health_generate", openapi_extra=PUBLIC)
async def health_generate(request: Request) -> Response:
    """Generate one token, or pool one, if nothing runs; a server that is busy or held has its
    heartbeats to show."""
    state = state_of(request)
    if not (state.health().ready and _open(state)) or state.frontend is None:
        return _empty(ready=False)
    if state.frontend.num_live or state.held:
        return _empty(ready=True)
    pools = state.frontend.pooler is not None
    job = Job(
        prompt=Prompt((0,)),
        params=SamplingParams(max_new_tokens=0 if pools else 1, temperature=0.0, ignore_eos=True),
        rid=new_id("probe"),
        pooling=PoolingParams() if pools else None,
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await state.frontend.collect([job], "")
    except (RequestError, TimeoutError):
        return _empty(ready=False)
    return _empty(ready=True)


@router.get("/metrics", openapi_extra=PUBLIC)
async def metrics(request: Request) -> Response:
    """Prometheus text; without the engine's own numbers while it does not answer."""
    state = state_of(request)
    if not state.config.enable_metrics:
        raise NotFound("metrics are switched off")
    stats = {} if state.frontend is None else await state.stats.now()
    stats["engine_up"] = int(state.health().ready)
    stats["messages_dropped"] = state.engine.num_dropped
    state.metrics.model_name = state.model_name if state.frontend is not None else ""
    return Response(state.metrics.render(stats), media_type=CONTENT_TYPE_LATEST)


def _open(state: ServerState) -> bool:
    return state.frontend is not None and not state.draining


def _empty(*, ready: bool) -> Response:
    return Response(status_code=200 if ready else 503)
