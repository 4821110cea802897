"""HTTP requests as they come and go: counted by route, and a line of the log for each.

The outermost layer of the application. A route is counted under its declared path, and methods are
a closed set, so that no client decides how many series there are.
"""

import logging
import time
from collections import Counter

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tupelo_server.access import AccessTable

logger = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_QUIET = frozenset({"/health", "/health_generate", "/ready", "/metrics"})
"""Asked every few seconds by machines: logged only where they fail."""


class Traffic:
    """Counts by (endpoint, method), and by (endpoint, method, status)."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, ...]] = Counter()
        self.active: Counter[tuple[str, ...]] = Counter()
        self.responses: Counter[tuple[str, ...]] = Counter()


class TrafficWatch:
    """Counts what passes, and logs it where that is wanted."""

    def __init__(
        self, app: ASGIApp, *, traffic: Traffic, table: AccessTable, log: bool, root_path: str
    ) -> None:
        """Watch ``app``. ``log``: write a line for each request, without query or content."""
        self._app = app
        self._traffic = traffic
        self._table = table
        self._log = log
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.monotonic()
        method = scope["method"] if scope["method"] in METHODS else "other"
        scope["root_path"] = self._root_path
        route = self._table.find(get_route_path(scope)).route
        key = (route, method)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._traffic.requests[key] += 1
        self._traffic.active[key] += 1
        try:
            await self._app(scope, receive, sending)
        finally:
            self._traffic.active[key] -= 1
            self._traffic.responses[(*key, str(status or 499))] += 1
            if self._log and (route not in _QUIET or status >= 400):
                logger.info(
                    "%s %s %d in %.1f ms", method, route, status, (time.monotonic() - begin) * 1e3
                )
