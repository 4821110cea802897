"""``/parse_function_call`` and ``/separate_reasoning``: the parsers, on a text that is given."""

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.protocol.fields import documents
from tupelo_server.protocol.parsers import ParseCallsBody, SeparateBody
from tupelo_server.state import frontend_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()


@router.post("/parse_function_call", openapi_extra=documents(ParseCallsBody))
async def parse_function_call(request: Request) -> Response:
    """The tool calls in a text."""
    state, frontend = state_of(request), frontend_of(request)
    body = ParseCallsBody.parse(await read_object(request, state.config.request_timeout_s))
    return JsonResponse(await asyncio.to_thread(body.reply, frontend.prompts.formats))


@router.post("/separate_reasoning", openapi_extra=documents(SeparateBody))
async def separate_reasoning(request: Request) -> Response:
    """The thoughts in a text, and the rest."""
    state, frontend = state_of(request), frontend_of(request)
    body = SeparateBody.parse(await read_object(request, state.config.request_timeout_s))
    return JsonResponse(await asyncio.to_thread(body.reply, frontend.prompts.formats))
