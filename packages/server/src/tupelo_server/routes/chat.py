"""``POST /v1/chat/completions``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.chat_jobs import chat_job
from tupelo_server.connection import EventStream, event, while_connected
from tupelo_server.generation import Delta
from tupelo_server.protocol.chat import ChatBody
from tupelo_server.protocol.chat_choices import ChatChoices
from tupelo_server.protocol.fields import (
    StreamOptions,
    client_names,
    documents,
)
from tupelo_server.protocol.meta import MetaInfo
from tupelo_server.protocol.openai import Reply
from tupelo_server.state import frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()

_NAMES = {"prompt": "messages"}


@router.post("/v1/chat/completions", openapi_extra=documents(ChatBody))
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completion, with SGLang's additions."""
    state, frontend = state_of(request), frontend_of(request)
    values = await read_object(request, state.config.request_timeout_s)
    body = ChatBody.parse(values)
    options = body.options
    owner = owner_of(request)
    job = await chat_job(body, state, frontend)
    job = await frontend.sessions.seat(job, owner, body.session_params)
    reply = Reply(
        id=job.rid,
        kind="chat.completion.chunk" if body.stream else "chat.completion",
        model=body.model or frontend.model_name,
        jobs=[job],
        weight_version=frontend.weight_version,
        cache_report=state.config.enable_cache_report,
        cached_details=body.return_cached_tokens_details,
    )
    tokenizer = frontend.prompts.tokenizer
    meta = MetaInfo([job], tokenizer, weight_version=frontend.weight_version)
    choices = ChatChoices(
        tokenizer,
        job,
        logprobs=body.logprobs,
        prompt_ids=body.return_prompt_token_ids or body.return_token_ids,
        token_ids=body.return_token_ids,
        meta=meta if body.return_meta_info else None,
        separate_reasoning=body.separate_reasoning,
        stream_reasoning=body.stream_reasoning,
    )
    with client_names(_NAMES):
        if body.stream:
            deltas = frontend.run([job], owner)
            return EventStream(_events(reply, choices, deltas, options))
        found = await while_connected(request.receive, frontend.collect([job], owner))
    reply.count(found)
    return JsonResponse(reply.whole([choices.whole(delta) for delta in found]))


async def _events(
    reply: Reply,
    choices: ChatChoices,
    deltas: AsyncGenerator[Delta, None],
    options: StreamOptions,
) -> AsyncGenerator[bytes, None]:
    """The events of a stream; those of one delta go out together."""
    async with aclosing(deltas):
        async for delta in deltas:
            reply.count([delta])
            chunks = [reply.body([choice]) for choice in choices.chunks(delta)]
            if options.continuous_usage_stats:
                chunks = [{**chunk, "usage": reply.usage()} for chunk in chunks]
            if chunks:
                yield b"".join(map(event, chunks))
    for chunk in reply.last_chunks(usage=options.include_usage):
        yield event(chunk)
