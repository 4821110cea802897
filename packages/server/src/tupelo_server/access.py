"""Who may call a route: said where the route is declared, read by the guard off the application.

A route says nothing (any user's key opens it), or::

    @router.post("/pause_generation", openapi_extra=opened_to(Access.ADMIN))

The mark stands in the OpenAPI document, as ``x-access``. The guard looks a path up with the routes'
own patterns, on the string that the router matches, so that the two cannot disagree.
"""

from collections.abc import Iterable
from enum import IntEnum
from re import Pattern
from typing import Any, NamedTuple

from starlette.routing import BaseRoute
from starlette.types import Scope

from tupelo_server.errors import Forbidden

_MARK = "x-access"

OTHER = "other"
"""The name of every path that no route has, where paths are counted."""


class Access(IntEnum):
    """What a route asks of its caller; who has a level has those before it.

    PUBLIC: nothing. USER: an API key, where the server has any. OPERATOR: the admin key, where the
    server has one, else what USER asks; for what others feel, but what harms nobody. ADMIN: the
    admin key; without one the route does not exist, unless the server was told otherwise.
    """

    PUBLIC = 0
    USER = 1
    OPERATOR = 2
    ADMIN = 3


def opened_to(access: Access, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The ``openapi_extra`` of a route with this access, added to what else the document says."""
    return {**(extra or {}), _MARK: access.name.lower()}


def access_of(route: BaseRoute) -> Access:
    """What a route asks; one that says nothing, whoever brought it, asks for a key."""
    extra: dict[str, Any] = getattr(route, "openapi_extra", None) or {}
    return Access[extra.get(_MARK, Access.USER.name).upper()]


class Rule(NamedTuple):
    """What is known of a path: what it asks, and the route's declared path."""

    access: Access
    route: str


class AccessTable:
    """What the routes of an application ask."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        """Take the routes in the router's order."""
        self._patterns: list[tuple[Pattern[str], Rule]] = []
        for route in routes:
            path: str = route.path  # type: ignore[attr-defined]  # every kind of route has these
            pattern: Pattern[str] = route.path_regex  # type: ignore[attr-defined]
            self._patterns.append((pattern, Rule(access_of(route), path)))
        plain = {rule.route for _, rule in self._patterns if "{" not in rule.route}
        self._exact = {path: self._match(path) for path in plain}

    def find(self, path: str) -> Rule:
        """The rule for a path as the router sees it; one without a route is for users, who are
        told that there is none. One with control characters is for nobody: in a pattern ``$``
        also matches before a line's end."""
        rule = self._exact.get(path)
        if rule is None:
            rule = self._match(path) if path.isprintable() else Rule(Access.ADMIN, OTHER)
        return rule

    def _match(self, path: str) -> Rule:
        """Of all routes that match (methods differ), the most that one asks, and the first name."""
        found = [rule for pattern, rule in self._patterns if pattern.match(path)]
        if not found:
            return Rule(Access.USER, OTHER)
        return Rule(max(rule.access for rule in found), found[0].route)


def refuse_browsers(scope: Scope) -> None:
    """Where operators and administrators need no key, a web page must not act as one through its
    reader's browser, which sends these headers.

    Raises:
        Forbidden: they are there.
    """
    for name, _ in scope["headers"]:
        if name in (b"origin", b"sec-fetch-site"):
            raise Forbidden("this is not open to browsers")
