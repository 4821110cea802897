"""Administrators' routes that change what the engine does: pause it, profile it, replace its
weights, give its memory back. All of them hold others up, so they need the admin key."""

from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tupelo.errors import InvalidRequest, RequestError
from tupelo_server.access import Access, opened_to
from tupelo_server.protocol.fields import Body, documents
from tupelo_server.protocol.operate import (
    ContinueBody,
    MemoryBody,
    PauseBody,
    ProfileBody,
    UpdateWeightsBody,
    WeightVersionBody,
)
from tupelo_server.state import frontend_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()

B = TypeVar("B", bound=Body)

LONG_CALL_S = 1800.0
"""Seconds that weights may take to load, and a profile to be written."""


def _admin(body: type[Body] | None = None) -> dict[str, Any]:
    return opened_to(Access.ADMIN, documents(body) if body else None)


@router.post("/pause_generation", openapi_extra=_admin(PauseBody))
async def pause_generation(request: Request) -> Response:
    """Compute nothing until told to go on; requests that come meanwhile wait."""
    body = await _body(request, PauseBody)
    await _ask(request, "pause", mode=body.mode)
    return JsonResponse({"message": "Generation paused successfully.", "status": "ok"})


@router.post("/continue_generation", openapi_extra=_admin(ContinueBody))
async def continue_generation(request: Request) -> Response:
    """Go on after a pause."""
    await _body(request, ContinueBody)
    await _ask(request, "resume")
    return JsonResponse({"message": "Generation continued successfully.", "status": "ok"})


@router.post("/update_weights_from_disk", openapi_extra=_admin(UpdateWeightsBody))
async def update_weights_from_disk(request: Request) -> Response:
    """Serve other weights of the same model; requests that run are computed again with them."""
    body = await _body(request, UpdateWeightsBody)
    if not body.flush_cache:
        raise InvalidRequest(
            "flush_cache: false would serve K/V of the old weights; leave it out",
            param="flush_cache",
        )
    frontend = frontend_of(request)
    try:
        held = await _ask(
            request,
            "update_weights",
            path=body.model_path,
            abort_requests=body.abort_all_requests,
            keep_paused=body.keep_pause,
        )
    except RequestError as error:
        return JsonResponse(
            {"success": False, "message": str(error), "num_paused_requests": 0},
            status_code=error.status,
        )
    frontend.weight_version = body.weight_version or frontend.weight_version
    return JsonResponse(
        {
            "success": True,
            "message": "Succeeded to update model weights.",
            "num_paused_requests": held,
        }
    )


@router.post("/update_weight_version", openapi_extra=_admin(WeightVersionBody))
async def update_weight_version(request: Request) -> Response:
    """Name the weights that are served; replies carry the name."""
    body = await _body(request, WeightVersionBody)
    frontend = frontend_of(request)
    if body.abort_all_requests:
        await frontend.abort_all()
    frontend.weight_version = body.new_version
    return JsonResponse(
        {
            "success": True,
            "message": f"Weight version updated to {body.new_version}",
            "new_version": body.new_version,
        }
    )


@router.get("/get_weight_version")
@router.get("/weight_version")
async def weight_version(request: Request) -> Response:
    """The name of the weights that are served."""
    return JsonResponse({"weight_version": frontend_of(request).weight_version})


@router.get("/release_memory_occupation", openapi_extra=_admin())
@router.post("/release_memory_occupation", openapi_extra=_admin(MemoryBody))
async def release_memory_occupation(request: Request) -> Response:
    """Give device memory back while nothing runs; requests that come wait."""
    body = await _body(request, MemoryBody)
    await _ask(request, "release_memory", tags=body.tags)
    return JsonResponse(None)


@router.get("/resume_memory_occupation", openapi_extra=_admin())
@router.post("/resume_memory_occupation", openapi_extra=_admin(MemoryBody))
async def resume_memory_occupation(request: Request) -> Response:
    """Take the memory again."""
    body = await _body(request, MemoryBody)
    await _ask(request, "resume_memory", tags=body.tags)
    return JsonResponse(None)


@router.get("/start_profile", openapi_extra=_admin())
@router.post("/start_profile", openapi_extra=_admin(ProfileBody))
async def start_profile(request: Request) -> Response:
    """Record the next steps."""
    body = await _body(request, ProfileBody)
    await _ask(request, "start_profile", **body.options())
    return PlainTextResponse("Start profiling.\n")


@router.get("/stop_profile", openapi_extra=_admin())
@router.post("/stop_profile", openapi_extra=_admin())
async def stop_profile(request: Request) -> Response:
    """End the recording, and say where it is inside the operator's folder."""
    name = await _ask(request, "stop_profile")
    return PlainTextResponse(f"Stop profiling. Wrote {name or 'nothing'}.\n")


async def _body(request: Request, kind: type[B]) -> B:
    timeout_s = state_of(request).config.request_timeout_s
    return kind.parse(await read_object(request, timeout_s))


async def _ask(request: Request, action: str, **args: Any) -> Any:
    """An operator's call; takes note of whether steps are held after it."""
    frontend = frontend_of(request)
    engine = frontend.engine
    try:
        return await engine.control(action, timeout_s=LONG_CALL_S, **args)
    finally:
        frontend.held = bool((await engine.control("stats"))["paused"])
