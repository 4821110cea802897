"""``/live``: the engine as the playground draws it. Sizes, counts and ages; never text."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.engine.messages import EngineInfo
from tupelo.errors import InvalidRequest
from tupelo_server.access import Access
from tupelo_server.context import context
from tupelo_server.engine_client import tenant_salt
from tupelo_server.state import caller_of, frontend_of
from tupelo_server.wire import JsonResponse

router = APIRouter()

_QUERY = {
    "parameters": [
        {
            "name": "after",
            "in": "query",
            "schema": {"type": "integer", "minimum": 0},
            "description": "steps up to this number are known already",
        }
    ]
}


@router.get("/live", openapi_extra=_QUERY)
async def live(request: Request) -> Response:
    """What the engine does now: requests, steps, and the prefix tree, each bounded in size.
    ``?after=STEP`` leaves out steps that are known."""
    frontend = frontend_of(request)
    after, salt = _after(request), _salt_shown(request)
    hidden = salt is None and caller_of(request).access < Access.ADMIN and context().hide_cached
    seen = await frontend.engine.control("live", after=after, salt="" if hidden else salt)
    if hidden:  # sizes would tell which of the caller's prefixes others have asked for
        seen |= {"requests": [], "steps": [], "tree": {"nodes": [], "num_nodes": 0, "hidden": 0}}
        seen["stats"] |= {"prefill_tokens": 0, "cached_tokens": 0}
    seen["tree"]["shown"] = "none" if hidden else "all" if salt is None else "own"
    return JsonResponse(_describe(seen, frontend.info))


def _salt_shown(request: Request) -> str | None:
    """The cache salt whose requests and branches the caller may see; None: all."""
    tenant = context().tenant
    if not tenant or caller_of(request).access is Access.ADMIN:
        return None
    return tenant_salt(tenant, "")


def _describe(seen: dict[str, Any], info: EngineInfo) -> dict[str, Any]:
    stats = seen["stats"]
    pages = ("total", "free", "owned", "cached", "evicted")
    return {
        "now_s": seen["now_s"],
        "num_running": stats["num_running"],
        "num_waiting": stats["num_waiting"],
        "max_running": info.max_running_requests,
        "paused": bool(stats["paused"]),
        "counters": {
            name: stats[name]
            for name in (
                "steps",
                "prefill_tokens",
                "decode_tokens",
                "cached_tokens",
                "retractions",
                "finished",
                "aborted",
            )
        },
        "page_size": stats["page_size"],
        # A model that stores nothing of its inputs has no pages.
        "pages": {name: next(iter(stats[f"pages_{name}"]), 0) for name in pages},
        "steps": seen["steps"],
        "requests": seen["requests"],
        "tree": seen["tree"],
    }


def _after(request: Request) -> int:
    text = request.query_params.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidRequest(
            f"after: got {text!r:.40}; must be the number of a step, 0 or more", param="after"
        )
    return int(text)
