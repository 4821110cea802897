"""``GET /v1/models`` and ``/v1/models/{id}``."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.engine_client import Frontend
from tupelo_server.errors import ModelNotFound
from tupelo_server.state import frontend_of, state_of
from tupelo_server.wire import JsonResponse

router = APIRouter()

_ID = {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The one model that is served; none where an administrator has unloaded it."""
    state = state_of(request)
    shown = [] if state.empty and state.frontend is None else [_card(frontend_of(request))]
    return JsonResponse({"object": "list", "data": shown})


@router.get("/v1/models/{model_id:path}", openapi_extra={"parameters": [_ID]})
async def model(request: Request) -> Response:
    """One model by its name."""
    frontend, model_id = frontend_of(request), request.path_params["model_id"]
    if model_id != frontend.model_name:
        raise ModelNotFound(
            f"the model {model_id[:100]!r} does not exist; this server has {frontend.model_name!r}",
            param="model",
        )
    return JsonResponse(_card(frontend))


def _card(frontend: Frontend) -> dict[str, Any]:
    return {
        "id": frontend.model_name,
        "object": "model",
        "created": int(frontend.since.timestamp()),
        "owned_by": "tupelo",
        "root": frontend.model_name,
        "parent": None,
        "max_model_len": frontend.info.context_length,
    }
