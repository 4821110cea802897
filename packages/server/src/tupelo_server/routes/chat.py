"""``POST /v1/chat/completions``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.connection import EventStream, event, while_connected
from tupelo_server.engine_client import Frontend
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.chat import ChatBody, ChatChoices, chat_reply
from tupelo_server.protocol.fields import (
    StreamOptions,
    check_priority,
    documents,
)
from tupelo_server.protocol.openai import Reply, new_id
from tupelo_server.state import ServerState, frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=documents(ChatBody))
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completion, with SGLang's additions."""
    state, frontend = state_of(request), frontend_of(request)
    values = await read_object(request, state.config.request_timeout_s)
    body = ChatBody.parse(values)
    options = body.options
    job = await _job(body, state, frontend)
    reply = Reply(
        id=job.rid,
        kind="chat.completion.chunk" if body.stream else "chat.completion",
        model=body.model or state.model_name,
        jobs=[job],
        cache_report=state.config.enable_cache_report,
    )
    choices = ChatChoices(frontend.prompts.tokenizer, logprobs=body.logprobs)
    if body.stream:
        deltas = frontend.run([job], owner_of(request))
        return EventStream(_events(reply, choices, deltas, options))
    found = await while_connected(request.receive, frontend.collect([job], owner_of(request)))
    return JsonResponse(chat_reply(reply, choices, found))


async def _job(body: ChatBody, state: ServerState, frontend: Frontend) -> Job:
    info = frontend.info
    params = body.sampling(body.limit, info.generation_defaults, info.vocab_size)
    num_top = body.num_top
    priority = check_priority(body.priority, state.engine_config.schedule_policy)
    salt = body.salt
    prompt = await frontend.prompts.of_messages(
        body.checked_messages(),
        continue_final_message=body.continue_final_message,
        template_kwargs=body.chat_template_kwargs,
    )
    return Job(
        prompt=prompt,
        params=params,
        rid=body.rid or new_id("chatcmpl"),
        stream=body.stream,
        stream_interval=state.config.stream_interval,
        salt=salt,
        priority=priority,
        logprobs=body.logprobs,
        top_logprobs=num_top,
    )


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
    if options.include_usage:
        yield event({**reply.body([]), "usage": reply.usage()})
