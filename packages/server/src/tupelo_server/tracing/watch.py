"""A span for each HTTP request but the probes: the outermost layer of a server that traces."""

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tupelo_server.access import Access, AccessTable
from tupelo_server.tracing.hooks import TRACE, Tracing
from tupelo_server.tracing.w3c import parent_of
from tupelo_server.traffic import METHODS


class TraceWatch:
    """Begins and ends the trace of each request that passes."""

    def __init__(
        self, app: ASGIApp, *, tracing: Tracing, table: AccessTable, root_path: str
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._table = table
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = None
        if scope["type"] == "http":
            scope["root_path"] = self._root_path
            rule = self._table.find(get_route_path(scope))
            if rule.access is not Access.PUBLIC:
                method = scope["method"] if scope["method"] in METHODS else "_OTHER"
                parent = parent_of(scope["headers"])
                trace = self._tracing.begin(method, rule.route, parent)
        if trace is None:
            await self._app(scope, receive, send)
            return
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = TRACE.set(trace)
        try:
            await self._app(scope, receive, sending)
        finally:
            TRACE.reset(token)
            trace.end(status)
