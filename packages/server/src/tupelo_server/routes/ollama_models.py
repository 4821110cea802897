"""What Ollama's clients ask of models: which there are, and what they can do."""

import hashlib
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import InvalidRequest
from tupelo.pooling import PoolingTask
from tupelo_server import __version__
from tupelo_server.engine_client import Frontend
from tupelo_server.errors import NotFound
from tupelo_server.protocol.fields import documents
from tupelo_server.protocol.ollama import OllamaShowBody
from tupelo_server.protocol.ollama_reply import timestamp
from tupelo_server.state import ServerState, frontend_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()

API_VERSION = "0.12.6"
"""The Ollama whose API these routes follow; clients refuse what says it is older than they need."""

_FOREVER = "9999-12-31T23:59:59Z"


@router.get("/api/version")
async def version() -> Response:
    """The version of Ollama's API, and Tupelo's own."""
    return JsonResponse({"version": API_VERSION, "tupelo": __version__})


@router.get("/api/tags")
async def tags(request: Request) -> Response:
    """The one model that is served, in Ollama's words."""
    return JsonResponse({"models": [_card(state_of(request), frontend_of(request))]})


@router.get("/api/ps")
async def running(request: Request) -> Response:
    """The models in memory: the one that is served, for as long as the server runs."""
    state, frontend = state_of(request), frontend_of(request)
    on_device = frontend.info.backend != "cpu"
    card = _card(state, frontend)
    more = {
        "expires_at": _FOREVER,
        "size_vram": card["size"] if on_device else 0,
        "context_length": frontend.info.context_length,
    }
    return JsonResponse({"models": [{**card, **more}]})


@router.post("/api/show", openapi_extra=documents(OllamaShowBody))
async def show(request: Request) -> Response:
    """What is known of a model: its template, its size, what it can do."""
    state, frontend = state_of(request), frontend_of(request)
    body = OllamaShowBody.parse(await read_object(request, state.config.request_timeout_s))
    name = body.model or body.name
    if not name:
        raise InvalidRequest("the field 'model' is required", param="model")
    if name.removesuffix(":latest") != state.model_name.removesuffix(":latest"):
        raise NotFound(f"model {name[:100]!r} not found; this server has {state.model_name!r}")
    info, card = frontend.info, _card(state, frontend)
    defaults = {**info.generation_defaults, "num_ctx": info.context_length}
    return JsonResponse(
        {
            "modelfile": f"FROM {state.model_name}\n",
            "parameters": "\n".join(f"{key:<30} {value:g}" for key, value in defaults.items()),
            "template": frontend.prompts.template() if frontend.prompts.has_template else "",
            "details": card["details"],
            "model_info": {
                "general.architecture": info.model_type,
                f"{info.model_type}.context_length": info.context_length,
                f"{info.model_type}.vocab_size": info.vocab_size,
            },
            "capabilities": _capabilities(frontend),
            "modified_at": card["modified_at"],
        }
    )


@router.post("/api/pull")
@router.post("/api/push")
@router.post("/api/create")
@router.post("/api/copy")
@router.delete("/api/delete")
async def unsupported(request: Request) -> Response:
    """Refused: this server has the model that it was started with."""
    raise InvalidRequest(
        f"{request.url.path} is not supported: this server keeps no store of models; it serves "
        "the one that it was started with",
        code="unsupported",
    )


def _card(state: ServerState, frontend: Frontend) -> dict[str, Any]:
    info = frontend.info
    gguf = info.model_path.endswith(".gguf")
    identity = f"{state.model_name}/{state.weight_version}".encode()
    return {
        "name": state.model_name,
        "model": state.model_name,
        "modified_at": timestamp(state.started_s),
        "size": info.memory.get("weight_bytes", 0),
        "digest": hashlib.sha256(identity).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "gguf" if gguf else "safetensors",
            "family": info.model_type,
            "families": [info.model_type],
            "parameter_size": "",
            "quantization_level": "unknown" if gguf else info.dtype,
        },
    }


def _capabilities(frontend: Frontend) -> list[str]:
    if frontend.pooler is not None:
        return ["embedding"] if PoolingTask.EMBED in frontend.pooler.info.tasks else []
    formats = frontend.prompts.formats
    found = {"completion": True, "tools": formats.tools, "thinking": formats.reasoning}
    return [name for name, there in found.items() if there]
