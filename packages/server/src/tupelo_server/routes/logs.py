"""``/configure_logging``: what is logged from now on, without a restart."""

import logging

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import InvalidRequest
from tupelo.request import check_int
from tupelo_server.access import Access, opened_to
from tupelo_server.config import LOG_LEVELS
from tupelo_server.protocol.fields import documents
from tupelo_server.protocol.operate import LoggingBody
from tupelo_server.request_log import MAX_LEVEL
from tupelo_server.state import state_of
from tupelo_server.wire import read_object

logger = logging.getLogger(__name__)
router = APIRouter()


@router.post("/configure_logging", openapi_extra=opened_to(Access.ADMIN, documents(LoggingBody)))
async def configure_logging(request: Request) -> Response:
    """Change the log of requests, and the level of the server's log. Empty 200."""
    state = state_of(request)
    body = LoggingBody.parse(await read_object(request, state.config.request_timeout_s))
    if body.log_level is not None and body.log_level.lower() not in LOG_LEVELS:
        raise InvalidRequest(
            f"log_level: got {body.log_level!r:.60}; allowed: {', '.join(LOG_LEVELS)}",
            param="log_level",
        )
    if body.log_requests_level is not None:
        state.log.level = check_int("log_requests_level", body.log_requests_level, 0, MAX_LEVEL)
    if body.log_requests is not None:
        state.log.enabled = body.log_requests
    if body.log_level is not None:
        logging.getLogger().setLevel(body.log_level.upper())
    logger.info("requests are logged: %s, at level %d", state.log.enabled, state.log.level)
    return Response()
