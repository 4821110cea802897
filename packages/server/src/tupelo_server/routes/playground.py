"""The playground: three static files, built from ``packages/server/web`` and shipped in the wheel.

They hold nothing of this server; what they show comes from its other routes, with the caller's key.
The page may load and call nothing but its own origin, and its scripts can make no markup out of
text (``require-trusted-types-for``): whatever a model says stays text.
"""

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.access import Access, opened_to
from tupelo_server.errors import NotFound
from tupelo_server.state import state_of

router = APIRouter()

PUBLIC = opened_to(Access.PUBLIC)

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}

FILES = {
    "index.html": "text/html; charset=utf-8",
    "playground/app.js": "text/javascript; charset=utf-8",
    "playground/app.css": "text/css; charset=utf-8",
}


@router.get("/", openapi_extra=PUBLIC)
@router.head("/", openapi_extra=PUBLIC)
async def page(request: Request) -> Response:
    """The playground: chat with the model, and watch the engine."""
    return _file(request, "index.html")


@router.get("/playground/app.js", openapi_extra=PUBLIC)
async def script(request: Request) -> Response:
    """The playground's script."""
    return _file(request, "playground/app.js")


@router.get("/playground/app.css", openapi_extra=PUBLIC)
async def style(request: Request) -> Response:
    """The playground's style sheet."""
    return _file(request, "playground/app.css")


def _file(request: Request, name: str) -> Response:
    """A file, or that the caller's copy of it is still right."""
    if not state_of(request).config.enable_playground:
        raise NotFound("the playground is switched off")
    content, etag = _content(name)
    headers = {**HEADERS, "etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=FILES[name], headers=headers)


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = files("tupelo_server").joinpath("static", *name.split("/")).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
