"""What stands in front of every route: keys, the body limit, and the last net for errors.

Plain ASGI, around the whole application. What a path needs stands in ``access.py``; the path looked
up is the very string that the router matches, and one that has no route needs a key as well.
"""

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tupelo.errors import RequestError
from tupelo_server.access import Access, AccessTable, refuse_browsers
from tupelo_server.context import CONTEXT, RequestContext, read_headers
from tupelo_server.errors import (
    Forbidden,
    NotFound,
    Unauthorized,
    as_request_error,
    error_body,
    error_headers,
)
from tupelo_server.intake import Intake
from tupelo_server.keys import Caller, KeyRing, bearer
from tupelo_server.wire import JsonResponse

CALLER = "tupelo.caller"
"""Key of the ASGI scope under which the guard leaves who asks (a ``Caller``)."""
RULE = "tupelo.rule"
"""Key of the ASGI scope under which it leaves what it knows of the path (a ``Rule``)."""


class Guard:
    """Checks the key and the size of each request before the application sees it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        table: AccessTable,
        max_body_bytes: int,
        root_path: str = "",
        always_timing: bool = False,
        share_cache: bool = False,
    ) -> None:
        """Guard ``app``.

        Args:
            root_path: prefix that a path may have; whether a proxy keeps it does not matter.
            always_timing: every reply tells its timing. share_cache: callers with different keys
                may use each other's cached prefixes.
        """
        self._app = app
        self._keys = keys
        self._table = table
        self._intake = Intake(max_body_bytes)
        self._root_path = root_path
        self._always_timing = always_timing
        self._share_cache = share_cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["root_path"] = self._root_path
        path = get_route_path(scope)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            scope[CALLER] = caller = self._admit(scope, path)
            CONTEXT.set(self._context(scope, caller))
            with self._intake.reading(scope, receive) as limited:
                await self._app(scope, limited, sending)
        except RequestError as error:
            await _refuse(error, path, scope, receive, send)
        except Exception as error:
            if not started:  # else the application has answered and logged it
                await _refuse(as_request_error(error), path, scope, receive, send)

    def _admit(self, scope: Scope, path: str) -> Caller:
        """Who asks, if the route is open to them.

        Raises:
            Unauthorized: the route needs a key and none that is known was sent.
            Forbidden: it needs the admin key, and another was sent.
            NotFound: it is an administrator's, and the server has none.
        """
        rule = scope[RULE] = self._table.find(path)
        caller = self._keys.caller(bearer(scope["headers"]))
        if caller.access >= rule.access:
            if rule.access >= Access.OPERATOR and not caller.known:
                refuse_browsers(scope)
            return caller
        if caller.access is Access.PUBLIC:
            raise Unauthorized("a valid API key is needed: send 'Authorization: Bearer KEY'")
        if not self._keys.has_admin:
            raise NotFound(
                "this route is switched off; the server's option --admin-api-key switches it on",
                code="admin_disabled",
            )
        if caller.known:
            raise Forbidden("this route needs the admin key")
        raise Unauthorized("this route needs the admin key: send 'Authorization: Bearer KEY'")

    def _context(self, scope: Scope, caller: Caller) -> RequestContext:
        timing, timeout_s = read_headers(scope["headers"])
        return RequestContext(
            timing=timing or self._always_timing,
            timeout_s=timeout_s,
            tenant="" if self._share_cache else caller.owner,
            hide_cached=self._share_cache and self._keys.num_keys > 1,
        )


async def _refuse(
    error: RequestError, path: str, scope: Scope, receive: Receive, send: Send
) -> None:
    response = JsonResponse(
        error_body(error, path), status_code=error.status, headers=error_headers(error)
    )
    await response(scope, receive, send)
