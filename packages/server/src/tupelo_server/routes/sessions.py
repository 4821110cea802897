"""``/open_session`` and ``/close_session``."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import EngineUnavailable
from tupelo_server.protocol.fields import documents
from tupelo_server.protocol.sessions import CloseSessionBody, OpenSessionBody
from tupelo_server.state import frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()


@router.post("/open_session", openapi_extra=documents(OpenSessionBody))
async def open_session(request: Request) -> Response:
    """Open a session with the model that is served, and tell its id."""
    frontend, state = frontend_of(request), state_of(request)
    body = OpenSessionBody.parse(await read_object(request, state.config.request_timeout_s))
    if not frontend.open:
        raise EngineUnavailable("the model is leaving, and its sessions with it")
    name = frontend.sessions.open(
        owner_of(request),
        body.session_id,
        capacity_chars=body.capacity_chars,
        timeout_s=body.timeout,
    )
    return JsonResponse(name)


@router.post("/close_session", openapi_extra=documents(CloseSessionBody))
async def close_session(request: Request) -> Response:
    """Forget a session of the sender's; one that is not open is no error. 200, empty."""
    frontend, state = frontend_of(request), state_of(request)
    body = CloseSessionBody.parse(await read_object(request, state.config.request_timeout_s))
    frontend.sessions.close(owner_of(request), body.session_id)
    return Response()
