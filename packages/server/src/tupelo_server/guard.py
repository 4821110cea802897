"""What stands in front of every route: API keys, the body limit, and the last net for errors.

Plain ASGI, around the whole application. A path is public only if it equals one of
``PUBLIC_PATHS``; the path compared is the very string that the router matches, and everything
else needs a key, whether it exists or not.
"""

import hashlib
import hmac
import logging
from collections.abc import Sequence

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tupelo.errors import RequestError
from tupelo_server.access import GRANTED, Access
from tupelo_server.errors import BodyTooLarge, Unauthorized, as_request_error, error_body
from tupelo_server.wire import JsonResponse

logger = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/health", "/health_generate", "/ready", "/metrics"})
OWNER = "tupelo.owner"
"""Key of the ASGI scope under which the guard leaves who asks: a digest of the key, or ""."""


class Guard:
    """Checks the key and the size of each request before the application sees it."""

    def __init__(
        self, app: ASGIApp, *, api_keys: Sequence[str], max_body_bytes: int, root_path: str = ""
    ) -> None:
        """Guard ``app``. Keys are kept as digests; no key at all opens every route.

        Args:
            root_path: prefix that a path may have; whether a proxy keeps it does not matter.
        """
        self._app = app
        self._root_path = root_path
        self._digests = [_digest(key.encode()) for key in api_keys]
        self._max_body_bytes = max_body_bytes

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
            scope[OWNER] = self._owner(scope, path)
            scope[GRANTED] = Access.ADMIN  # whoever may ask at all
            await self._app(scope, self._limited(scope, receive), sending)
        except RequestError as error:
            await _refuse(error, path, scope, receive, send)
        except Exception as error:
            if not started:  # else the application has answered and logged it
                await _refuse(as_request_error(error), path, scope, receive, send)

    def _owner(self, scope: Scope, path: str) -> str:
        """Who asks.

        Raises:
            Unauthorized: the route needs a key and none that is known was sent.
        """
        if not self._digests or path in PUBLIC_PATHS or scope["method"] == "OPTIONS":
            return ""
        found = ""
        given = _digest(_bearer(scope))
        for digest in self._digests:  # all of them, so that time tells nothing
            if hmac.compare_digest(digest, given):
                found = digest.hex()
        if not found:
            raise Unauthorized("a valid API key is needed: send 'Authorization: Bearer KEY'")
        return found

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """``receive`` that refuses a body longer than the limit, announced or not.

        Raises:
            BodyTooLarge: at once if the announced length is above the limit.
        """
        limit = self._max_body_bytes
        refusal = f"the request body is larger than {limit} bytes"
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > limit):
                raise BodyTooLarge(refusal)
        seen = 0

        async def receiving() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise BodyTooLarge(refusal)
            return message

        return receiving


def _bearer(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            key: bytes = value[7:]
            return key.strip()
    return b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


async def _refuse(
    error: RequestError, path: str, scope: Scope, receive: Receive, send: Send
) -> None:
    headers = {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
    response = JsonResponse(error_body(error, path), status_code=error.status, headers=headers)
    await response(scope, receive, send)
