"""``POST /v1/messages`` and ``/v1/messages/count_tokens``, Anthropic's API."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import RequestError
from tupelo_server.chat_jobs import chat_job, chat_prompt
from tupelo_server.connection import EventStream, event, while_connected
from tupelo_server.errors import anthropic_error
from tupelo_server.generation import Delta
from tupelo_server.protocol.anthropic import CountBody, MessagesBody
from tupelo_server.protocol.anthropic_reply import MessageReply
from tupelo_server.protocol.fields import client_names, documents
from tupelo_server.state import frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()

_NAMES = {
    "prompt": "messages",
    "stop": "stop_sequences",
    "max_thinking_tokens": "thinking.budget_tokens",
}


@router.post("/v1/messages", openapi_extra=documents(MessagesBody))
async def messages(request: Request) -> Response:
    """A turn of a conversation."""
    state, frontend = state_of(request), frontend_of(request)
    values = await read_object(request, state.config.request_timeout_s)
    with client_names(_NAMES):
        body = MessagesBody.parse(values)
        job = await chat_job(body.chat(), state, frontend)
        reply = MessageReply(
            f"msg_{secrets.token_hex(16)}",
            body.model,
            job,
            cache_report=state.config.enable_cache_report,
        )
        if body.stream:
            deltas = frontend.run([job], owner_of(request))
            return EventStream(_events(reply, deltas), done=b"", failed=_failed)
        work = frontend.collect([job], owner_of(request))
        (delta,) = await while_connected(request.receive, work)
    return JsonResponse(reply.whole(delta))


@router.post("/v1/messages/count_tokens", openapi_extra=documents(CountBody))
async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation has."""
    state, frontend = state_of(request), frontend_of(request)
    values = await read_object(request, state.config.request_timeout_s)
    with client_names(_NAMES):
        chat = CountBody.parse(values).chat()
        prompt = await chat_prompt(chat, chat.tool_use, state, frontend)
    return JsonResponse({"input_tokens": len(prompt.ids)})


async def _events(
    reply: MessageReply, deltas: AsyncGenerator[Delta, None]
) -> AsyncGenerator[bytes, None]:
    """The events of one delta go out together."""
    opening = _named(reply.first())
    async with aclosing(deltas):
        async for delta in deltas:
            yield opening + b"".join(map(_named, reply.events(delta)))
            opening = b""


def _named(data: dict[str, Any]) -> bytes:
    name: str = data["type"]
    return b"event: " + name.encode() + b"\n" + event(data)


def _failed(error: RequestError) -> bytes:
    return _named(anthropic_error(error))
