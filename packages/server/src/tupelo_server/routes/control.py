"""Operators' routes: what is served, flush the cache, abort requests."""

import asyncio
import dataclasses
import time
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tupelo.errors import InvalidRequest
from tupelo_server import __version__
from tupelo_server.access import Access, opened_to
from tupelo_server.engine_client import Frontend, public_path
from tupelo_server.errors import SchemaError
from tupelo_server.protocol.fields import Body, documents
from tupelo_server.state import (
    ServerState,
    frontend_of,
    owner_of,
    require,
    state_of,
)
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()

OPERATOR = opened_to(Access.OPERATOR)

_FLUSH_POLL_S = 0.05


class AbortBody(Body):
    """A request of ``/abort_request``."""

    rid: str = ""
    abort_all: bool = False


@router.get("/model_info")
@router.get("/get_model_info")
async def model_info(request: Request) -> Response:
    """The model, in SGLang's words."""
    frontend = frontend_of(request)
    info, config, formats = frontend.info, frontend.config, frontend.prompts.formats
    return JsonResponse(
        {
            "model_path": public_path(config.model) or frontend.model_name,
            "served_model_name": frontend.model_name,
            "tokenizer_path": public_path(config.tokenizer) or frontend.model_name,
            "is_generation": info.pooling is None,
            "preferred_sampling_params": info.generation_defaults or None,
            "weight_version": frontend.weight_version,
            "load_format": config.load_format,
            "reasoning_parser": formats.reasoning.name if formats.reasoning else None,
            "tool_call_parser": formats.tools.name if formats.tools else None,
            "disaggregation_mode": "null",
            "has_image_understanding": False,
            "has_audio_understanding": False,
            "model_type": info.model_type,
            "architectures": [info.architecture],
            "context_length": info.context_length,
            "vocab_size": info.vocab_size,
        }
    )


@router.get("/server_info")
@router.get("/get_server_info")
async def server_info(request: Request) -> Response:
    """Every option as it was resolved, and the engine's state."""
    frontend, state = frontend_of(request), state_of(request)
    info = msgspec.structs.asdict(frontend.info)
    for name in ("model_path", "tokenizer_path"):
        info[name] = public_path(info[name])
    return JsonResponse(
        {
            **_options(state, frontend),
            **info,
            "served_model_name": frontend.model_name,
            "version": __version__,
            "startup_time": state.started_s,
            "uptime_s": time.time() - state.started_s,
            "internal_states": [await frontend.engine.control("stats")],
        }
    )


@router.get("/flush_cache", openapi_extra=OPERATOR)
@router.post("/flush_cache", openapi_extra=OPERATOR)
async def flush_cache(request: Request) -> Response:
    """Empty the prefix cache. Refused while requests run; ``?timeout=SECONDS`` waits for them."""
    engine = frontend_of(request).engine
    deadline = time.monotonic() + _seconds(request.query_params.get("timeout", "0"))
    while True:
        if await engine.control("flush_cache"):
            return PlainTextResponse("Cache flushed.\n")
        if time.monotonic() >= deadline:
            text = "Cache not flushed: requests are running. Give timeout=SECONDS to wait.\n"
            return PlainTextResponse(text, status_code=400)
        await asyncio.sleep(_FLUSH_POLL_S)


@router.post("/abort_request", openapi_extra=documents(AbortBody))
async def abort_request(request: Request) -> Response:
    """Abort the sender's live requests of exactly this id, or (an operator) all. 200, empty."""
    frontend, state = frontend_of(request), state_of(request)
    body = AbortBody.parse(await read_object(request, state.config.request_timeout_s))
    if body.abort_all:
        require(request, Access.OPERATOR)
        await frontend.abort_all()
    elif body.rid:
        await frontend.abort(body.rid, owner_of(request))
    else:
        raise InvalidRequest("give rid, or set abort_all", param="rid")
    return Response()


def _options(state: ServerState, frontend: Frontend) -> dict[str, Any]:
    """The resolved options, without secrets and without paths of this machine."""
    configs = (frontend.config, state.config)
    options = {
        item.name: getattr(config, item.name)
        for config in configs
        for item in dataclasses.fields(config)
        if not item.metadata.get("secret")
    }
    return {
        name: public_path(value) if isinstance(value, str) else value
        for name, value in options.items()
    }


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise SchemaError("timeout: must be a number of seconds from 0 to 3600", param="timeout")
    return value
