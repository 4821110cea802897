"""Who may call a route: said where the route is declared, read by the guard off the application.

A route says nothing (any user's key opens it), or::

    @router.post("/flush_cache", openapi_extra=opened_to(Access.ADMIN))

The mark stands in the OpenAPI document, as ``x-access``.
"""

from enum import StrEnum
from typing import Any

from fastapi import FastAPI
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


def access_table(api: FastAPI) -> dict[str, Access]:
    """What each path asks, for every route in the application's OpenAPI document.

    A path whose methods differ asks for the most that any of them does; one that is not in the
    table is a user's.
    """
    order = list(Access)
    return {
        path: max((Access(o.get(_MARK, Access.USER)) for o in operations.values()), key=order.index)
        for path, operations in api.openapi()["paths"].items()
    }


def is_admin(request: Request) -> bool:
    """Whether an operator asks, for routes that let everyone do a part of what they do."""
    return bool(request.scope[GRANTED] is Access.ADMIN)
