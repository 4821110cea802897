"""Administrators' routes that load and unload the model while the server runs."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import EngineUnavailable, InvalidRequest, RequestError, TupeloError
from tupelo_server.access import Access, opened_to
from tupelo_server.engine_client import public_path
from tupelo_server.loader import ModelOptions, Stage
from tupelo_server.protocol.fields import documents
from tupelo_server.protocol.operate import LoadModelBody, UnloadModelBody
from tupelo_server.state import ServerState, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()


@router.post("/load_model", openapi_extra=opened_to(Access.ADMIN, documents(LoadModelBody)))
async def load_model(request: Request) -> Response:
    """Serve another model instead of the one that there is, whose requests may end before."""
    state = state_of(request)
    body = LoadModelBody.parse(await read_object(request, state.config.request_timeout_s))
    options = body.options(state.first_model)
    drain_s = body.drain_s(state.config.shutdown_timeout_s)
    _refuse_while_stopping(state)
    try:
        found = await state.loader.load(options, drain_s=drain_s)
    except RequestError:
        raise
    except TupeloError as error:
        raise InvalidRequest(_told(error, options, state), param="model_path") from None
    message = f"{found.model_name} is served now."
    return JsonResponse({"success": True, "message": message, "model": found.model_name})


@router.post("/unload_model", openapi_extra=opened_to(Access.ADMIN, documents(UnloadModelBody)))
async def unload_model(request: Request) -> Response:
    """Take the model away, with all its memory, once its requests have ended."""
    state = state_of(request)
    body = UnloadModelBody.parse(await read_object(request, state.config.request_timeout_s))
    _refuse_while_stopping(state)
    await state.loader.unload(drain_s=body.drain_s(state.config.shutdown_timeout_s))
    return JsonResponse({"success": True, "message": "No model is served now.", "model": None})


@router.get("/model_state", openapi_extra=opened_to(Access.ADMIN))
async def model_state(request: Request) -> Response:
    """Whether a model is served, loaded or unloaded, how far that is, and how much runs."""
    state = state_of(request)
    frontend, loader = state.frontend, state.loader
    loading = loader.stage is Stage.LOADING
    return JsonResponse(
        {
            "state": loader.stage.value,
            "model": None if frontend is None else frontend.model_name,
            "num_running": 0 if frontend is None else frontend.num_live,
            "phase": loader.progress.phase if loading else None,
            "progress": loader.progress.fraction if loading else None,
        }
    )


def _refuse_while_stopping(state: ServerState) -> None:
    """Models are neither loaded nor unloaded where the server ends anyway.

    Raises:
        EngineUnavailable: so it is.
    """
    if state.draining:
        raise EngineUnavailable("the server is stopping")


def _told(error: TupeloError, options: ModelOptions, state: ServerState) -> str:
    """The error without paths of this machine, and what it has left behind."""
    text = str(error)
    for path in (options.engine.model, options.engine.tokenizer):
        if path:
            text = text.replace(path, public_path(path))
    left = "no model" if state.frontend is None else state.frontend.model_name
    return f"the model cannot be loaded: {text}. The server has {left} now"
