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
from tupelo_server.state import frontend_of, state_of
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
    """The one model that is served, in Ollama's words; none where it was unloaded."""
    return JsonResponse({"models": [_card(frontend) for frontend in _served(request)]})


@router.get("/api/ps")
async def running(request: Request) -> Response:
    """The models in memory: the one that is served, until an administrator unloads it."""
    return JsonResponse({"models": [_loaded(frontend) for frontend in _served(request)]})


@router.post("/api/show", openapi_extra=documents(OllamaShowBody))
async def show(request: Request) -> Response:
    """What is known of a model: its template, its size, what it can do."""
    state, frontend = state_of(request), frontend_of(request)
    body = OllamaShowBody.parse(await read_object(request, state.config.request_timeout_s))
    name = body.model or body.name
    if not name:
        raise InvalidRequest("the field 'model' is required", param="model")
    own = frontend.model_name
    if name.removesuffix(":latest") != own.removesuffix(":latest"):
        raise NotFound(f"model {name[:100]!r} not found; this server has {own!r}")
    info, card = frontend.info, _card(frontend)
    defaults = {**frontend.sampling_defaults, "num_ctx": info.context_length}
    return JsonResponse(
        {
            "modelfile": f"FROM {own}\n",
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
    """Refused: what is served is for administrators to say (`/load_model`)."""
    raise InvalidRequest(
        f"{request.url.path} is not supported: this server keeps no store of models, and which one "
        "it serves is for its administrator to say",
        code="unsupported",
    )


def _served(request: Request) -> list[Frontend]:
    """The model that is served, none where an administrator wants it so.

    Raises:
        EngineUnavailable: there is none yet.
    """
    state = state_of(request)
    return [] if state.empty and state.frontend is None else [frontend_of(request)]


def _loaded(frontend: Frontend) -> dict[str, Any]:
    card = _card(frontend)
    return {
        **card,
        "expires_at": _FOREVER,
        "size_vram": 0 if frontend.info.backend == "cpu" else card["size"],
        "context_length": frontend.info.context_length,
    }


def _card(frontend: Frontend) -> dict[str, Any]:
    info = frontend.info
    gguf = info.model_path.endswith(".gguf")
    identity = f"{frontend.model_name}/{frontend.weight_version}".encode()
    return {
        "name": frontend.model_name,
        "model": frontend.model_name,
        "modified_at": timestamp(frontend.since.timestamp()),
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
