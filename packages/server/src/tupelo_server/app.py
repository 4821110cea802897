"""The application: routes, error replies, and the guard around them."""

from copy import copy

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from tupelo.errors import RequestError, TemplateError
from tupelo_server import __version__
from tupelo_server.access import Access, AccessTable, access_of
from tupelo_server.document import DocumentedApi
from tupelo_server.errors import (
    ClientGone,
    MethodNotAllowed,
    NotFound,
    as_request_error,
    error_body,
    error_headers,
)
from tupelo_server.guard import Guard
from tupelo_server.keys import KeyRing
from tupelo_server.routes import (
    anthropic,
    chat,
    completions,
    control,
    generate,
    health,
    live,
    loads,
    logs,
    models,
    ollama,
    ollama_models,
    operate,
    parsers,
    playground,
    pooled,
    responses,
    score,
    sessions,
    switch,
    text,
)
from tupelo_server.state import ServerState
from tupelo_server.tracing.watch import TraceWatch
from tupelo_server.traffic import TrafficWatch
from tupelo_server.wire import JsonResponse

ROUTERS = [
    chat.router,
    anthropic.router,
    responses.router,
    completions.router,
    models.router,
    ollama.router,
    ollama_models.router,
    generate.router,
    sessions.router,
    text.router,
    parsers.router,
    control.router,
    operate.router,
    switch.router,
    pooled.router,
    score.router,
    loads.router,
    live.router,
    logs.router,
    health.router,
    playground.router,
]


def create_api(state: ServerState) -> FastAPI:
    """The routes and their error replies, without the guard."""
    api = DocumentedApi(
        title="Tupelo",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            RequestError: _refused,
            TemplateError: _refused,
            HTTPException: _no_route,
            ClientGone: _gone,
            Exception: _refused,
        },
    )
    api.state.server = state
    has_admin = bool(state.config.admin_api_keys) or state.config.enable_admin_routes
    for router in ROUTERS:
        # One flat list, for the guard reads the routes, and the router walks over them.
        for route in map(copy, router.routes):
            assert isinstance(route, APIRoute)
            route.operation_id = _operation(route)
            route.include_in_schema = has_admin or access_of(route) is not Access.ADMIN
            api.router.routes.append(route)
    return api


def create_app(state: ServerState) -> ASGIApp:
    """The whole ASGI application."""
    return guarded(create_api(state), state)


def guarded(api: FastAPI, state: ServerState) -> ASGIApp:
    """``api`` behind all that stands before it, which knows the routes that it has now."""
    config, table = state.config, AccessTable(api.routes)
    app: ASGIApp = Guard(
        api,
        keys=KeyRing(config.api_keys, config.admin_api_keys, open_admin=config.enable_admin_routes),
        table=table,
        max_body_bytes=config.max_body_bytes,
        root_path=config.root_path,
        always_timing=config.enable_request_timing,
        share_cache=config.share_cache_across_keys,
    )
    if config.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=config.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["retry-after"],
        )
    app = TrafficWatch(
        app,
        traffic=state.metrics.traffic,
        table=table,
        log=config.access_log,
        root_path=config.root_path,
    )
    if state.tracing is not None:
        app = TraceWatch(app, tracing=state.tracing, table=table, root_path=config.root_path)
    return app


def _operation(route: APIRoute) -> str:
    """The name of an operation in the OpenAPI document."""
    method = min(route.methods or {"get"}).lower()
    return method + route.path.replace("/", "_")


async def _refused(request: Request, error: Exception) -> Response:
    return _reply(request, as_request_error(error))


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405, in the shapes of the other errors."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _reply(request, MethodNotAllowed("this route does not take this method"))
    return _reply(request, NotFound("there is no such route"))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _reply(request: Request, error: RequestError) -> Response:
    body = error_body(error, get_route_path(request.scope))
    return JsonResponse(body, status_code=error.status, headers=error_headers(error))
