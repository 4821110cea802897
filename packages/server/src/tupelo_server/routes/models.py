"""``GET /v1/models`` and ``/v1/models/{id}``."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.errors import NotFound
from tupelo_server.state import ServerState, frontend_of, state_of
from tupelo_server.wire import JsonResponse

router = APIRouter()

_ID = {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The one model that is served."""
    frontend_of(request)
    return JsonResponse({"object": "list", "data": [_card(state_of(request))]})


@router.get("/v1/models/{model_id:path}", openapi_extra={"parameters": [_ID]})
async def model(request: Request) -> Response:
    """One model by its name."""
    frontend_of(request)
    state, model_id = state_of(request), request.path_params["model_id"]
    if model_id != state.model_name:
        raise NotFound(
            f"the model {model_id[:100]!r} does not exist; this server has {state.model_name!r}",
            param="model",
            code="model_not_found",
        )
    return JsonResponse(_card(state))


def _card(state: ServerState) -> dict[str, Any]:
    return {
        "id": state.model_name,
        "object": "model",
        "created": int(state.started_s),
        "owned_by": "tupelo",
        "root": state.model_name,
        "parent": None,
        "max_model_len": state.engine.info.context_length,
    }
