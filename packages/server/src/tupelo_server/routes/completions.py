"""``POST /v1/completions``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.connection import EventStream, event, while_connected
from tupelo_server.engine_client import Frontend
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.completion import (
    CompletionBody,
    CompletionChoices,
    completion_reply,
    split_prompts,
)
from tupelo_server.protocol.fields import (
    StreamOptions,
    check_priority,
    client_names,
    documents,
)
from tupelo_server.protocol.openai import Reply, new_id
from tupelo_server.state import ServerState, frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()

_NAMES = {"input_ids": "prompt", "top_logprobs": "logprobs"}


@router.post("/v1/completions", openapi_extra=documents(CompletionBody))
async def completions(request: Request) -> Response:
    """OpenAI's text completion, with SGLang's additions."""
    state, frontend = state_of(request), frontend_of(request)
    values = await read_object(request, state.config.request_timeout_s)
    body = CompletionBody.parse(values)
    options = body.options
    reply_id = body.rid or new_id("cmpl")
    jobs = await _jobs(body, state, frontend, reply_id)
    reply = Reply(
        id=reply_id,
        kind="text_completion",
        model=body.model or state.model_name,
        jobs=jobs,
        cache_report=state.config.enable_cache_report,
    )
    choices = CompletionChoices(
        frontend.prompts.tokenizer, jobs, echo=body.echo, logprobs=body.logprobs is not None
    )
    with client_names(_NAMES):
        if body.stream:
            deltas = frontend.run(jobs, owner_of(request))
            return EventStream(_events(reply, choices, deltas, options))
        found = await while_connected(request.receive, frontend.collect(jobs, owner_of(request)))
    return JsonResponse(completion_reply(reply, choices, found))


async def _jobs(
    body: CompletionBody, state: ServerState, frontend: Frontend, rid: str
) -> list[Job]:
    body.check()
    info = frontend.info
    params = body.sampling(body.limit, info.generation_defaults, info.vocab_size)
    priority = check_priority(body.priority, state.engine_config.schedule_policy)
    salt = body.salt
    prompts = await frontend.prompts.of_any(split_prompts(body.prompt))
    return [
        Job(
            prompt=prompt,
            params=params,
            rid=rid,
            stream=body.stream,
            stream_interval=state.config.stream_interval,
            salt=salt,
            priority=priority,
            logprobs=body.logprobs is not None,
            top_logprobs=body.logprobs or 0,
            prompt_logprobs_from=0 if body.echo and body.logprobs is not None else None,
        )
        for prompt in prompts
    ]


async def _events(
    reply: Reply,
    choices: CompletionChoices,
    deltas: AsyncGenerator[Delta, None],
    options: StreamOptions,
) -> AsyncGenerator[bytes, None]:
    async with aclosing(deltas):
        async for delta in deltas:
            reply.count([delta])
            choice = choices.choice(delta)
            if choice["text"] or delta.rows or delta.end is not None:
                chunk = reply.body([choice])
                if options.continuous_usage_stats:
                    chunk["usage"] = reply.usage()
                yield event(chunk)
    if options.include_usage:
        yield event({**reply.body([]), "usage": reply.usage()})
