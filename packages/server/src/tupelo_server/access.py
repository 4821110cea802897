"""Who may call a route: said where the route is declared, read by the guard off the application.

A route says nothing (any user's key opens it), or::

    @router.post("/flush_cache", openapi_extra=opened_to(Access.ADMIN))

The mark stands in the OpenAPI document too, as ``x-access``. A route of a plugin that marks nothing
is a user's.
"""

from enum import StrEnum
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request

GRANTED = "tupelo.access"
"""Key of the ASGI scope under which the guard leaves the ``Access`` that the asker has."""

_MARK = "x-access"


class Access(StrEnum):
    """What a route asks of its caller: nothing, a key, an operator's key."""

    PUBLIC = "public"
    USER = "user"
    ADMIN = "admin"


def opened_to(access: Access, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The ``openapi_extra`` of a route with this access, added to what else the document says."""
    return {**(extra or {}), _MARK: access.value}


def access_of(route: APIRoute) -> Access:
    """What a route asks; a user's key where it says nothing."""
    return Access((route.openapi_extra or {}).get(_MARK, Access.USER))


def access_table(api: FastAPI) -> dict[str, Access]:
    """What each path asks, for all of the application's routes.

    A path whose methods differ asks for the most that any of them does.
    """
    order = list(Access)
    found: dict[str, Access] = {}
    for route in api.routes:
        if isinstance(route, APIRoute):
            known = found.get(route.path, Access.PUBLIC)
            found[route.path] = max(known, access_of(route), key=order.index)
    return found


def is_admin(request: Request) -> bool:
    """Whether an operator asks, for routes that let everyone do a part of what they do."""
    return bool(request.scope[GRANTED] is Access.ADMIN)
