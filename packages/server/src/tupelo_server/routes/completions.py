"""``POST /v1/completions``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.connection import EventStream, event, while_connected
from tupelo_server.engine_client import Frontend
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.completion import (
    CompletionBody,
    CompletionChoices,
    best_of,
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
    owner = owner_of(request)
    jobs = [
        await frontend.sessions.seat(job, owner, body.session_params)
        for job in await _jobs(body, state, frontend)
    ]
    reply = Reply(
        id=jobs[0].rid,
        kind="text_completion",
        model=body.model or frontend.model_name,
        jobs=jobs,
        weight_version=frontend.weight_version,
        cache_report=state.config.enable_cache_report,
        cached_details=body.return_cached_tokens_details,
    )
    choices = CompletionChoices(
        frontend.prompts.tokenizer,
        [replace(job, params=replace(job.params, n=body.n)) for job in jobs],
        echo=body.echo,
        logprobs=body.logprobs is not None,
        token_ids=body.return_token_ids,
    )
    with client_names(_NAMES):
        if body.stream:
            deltas = frontend.run(jobs, owner)
            return EventStream(_events(reply, choices, deltas, options))
        found = await while_connected(request.receive, frontend.collect(jobs, owner))
    reply.count(found)
    if body.num_drawn > body.n:
        found = best_of(found, jobs, body.n)
    return JsonResponse(reply.whole([choices.choice(delta) for delta in found]))


async def _jobs(body: CompletionBody, state: ServerState, frontend: Frontend) -> list[Job]:
    frontend.check_name(body.model)
    body.check()
    info = frontend.info
    params = body.sampling(body.limit, frontend.sampling_defaults, info.vocab_size)
    params = replace(params, n=body.num_drawn)
    grammar = body.grammar
    priority = check_priority(body.priority, state.engine_config.schedule_policy)
    prompts = split_prompts(body.prompt)
    salts = body.salts(len(prompts))
    rids = body.rids(new_id("cmpl"), len(prompts))
    return [
        Job(
            prompt=prompt,
            params=params,
            rid=rid,
            stream=body.stream,
            stream_interval=state.config.stream_interval,
            salt=salt,
            priority=priority,
            logprobs=body.logprobs is not None or body.num_drawn > body.n,
            top_logprobs=body.logprobs or 0,
            prompt_logprobs_from=0 if body.echo and body.logprobs is not None else None,
            grammar=grammar,
        )
        for prompt, salt, rid in zip(
            await frontend.prompts.of_any(prompts), salts, rids, strict=True
        )
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
            if choice["text"] or delta.rows or delta.end is not None or choices.token_ids:
                chunk = reply.body([choice])
                if options.continuous_usage_stats:
                    chunk["usage"] = reply.usage()
                yield event(chunk)
    for chunk in reply.last_chunks(usage=options.include_usage):
        yield event(chunk)
