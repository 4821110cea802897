"""The routes of the server, read off the application itself."""

from collections.abc import Iterator
from typing import NamedTuple

from starlette.routing import BaseRoute

from tupelo.config import EngineConfig
from tupelo_server.access import Access, access_of
from tupelo_server.app import create_api
from tupelo_server.config import ServerConfig
from tupelo_server.state import ServerState


class Route(NamedTuple):
    """One route: its path with parameters filled in, a method that it takes, who may call it."""

    path: str
    method: str
    access: Access


def all_routes() -> list[Route]:
    """Every path and method that the application answers, its OpenAPI document's too."""
    config = EngineConfig()
    state = ServerState(config=ServerConfig(), engine_config=config)
    return [route for base in create_api(state).routes for route in _of(base)]


def _of(route: BaseRoute) -> Iterator[Route]:
    path: str = route.path  # type: ignore[attr-defined]
    for part in ("{model_id:path}", "{id}"):
        path = path.replace(part, "x")
    assert "{" not in path, f"{path}: say what its parameters may be"
    for method in sorted(route.methods):  # type: ignore[attr-defined]
        yield Route(path, method, access_of(route))
