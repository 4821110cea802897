"""``/generate``, SGLang's own route."""

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.connection import EventStream, event, while_connected
from tupelo_server.generation import Delta
from tupelo_server.protocol.fields import client_names, documents
from tupelo_server.protocol.meta import MetaInfo
from tupelo_server.protocol.native import GenerateBody, NativeReply
from tupelo_server.sessions import seated
from tupelo_server.state import frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()


@router.post("/generate", openapi_extra=documents(GenerateBody))
@router.put("/generate", openapi_extra=documents(GenerateBody))
async def generate(request: Request) -> Response:
    """Generate from text or ids; one prompt or a list of them."""
    state, frontend = state_of(request), frontend_of(request)
    body = GenerateBody.parse(await read_object(request, state.config.request_timeout_s))
    owner = owner_of(request)
    prompts = await frontend.prompts.of_any(body.prompts())
    turns = await frontend.sessions.turns(body.session_params, owner, prompts)
    jobs = body.jobs(
        [turn.prompt if turn else prompt for prompt, turn in zip(prompts, turns, strict=True)],
        policy=state.engine_config.schedule_policy,
        vocab_size=frontend.info.vocab_size,
        stream_interval=state.config.stream_interval,
    )
    jobs = [seated(job, turn) for job, turn in zip(jobs, turns, strict=True)]
    meta = MetaInfo(
        jobs,
        frontend.prompts.tokenizer,
        weight_version=frontend.weight_version,
        text_in_logprobs=body.return_text_in_logprobs,
    )
    reply = NativeReply(jobs, meta, prompt_ids=body.return_prompt_token_ids)
    several = not body.single or sum(job.params.n for job in jobs) > 1
    with client_names({"top_logprobs": "top_logprobs_num", "prompt": "text"}):
        if body.stream:
            deltas = frontend.run(jobs, owner)
            cumulative = not state.config.incremental_streaming_output
            return EventStream(_events(reply, deltas, several=several, cumulative=cumulative))
        found = await while_connected(request.receive, frontend.collect(jobs, owner))
    items = [reply.item(delta) for delta in found]
    return JsonResponse(items if several else items[0])


async def _events(
    reply: NativeReply, deltas: AsyncGenerator[Delta, None], *, several: bool, cumulative: bool
) -> AsyncGenerator[bytes, None]:
    """An event a delta, of everything so far or of what is new; in a batch each has its index."""
    so_far: dict[int, Delta] = {}
    async with aclosing(deltas):
        async for delta in deltas:
            shown = delta
            if cumulative and delta.index in so_far:
                shown = so_far[delta.index]
                shown.add(delta)
            elif cumulative:
                so_far[delta.index] = shown = dataclasses.replace(delta)
            item: dict[str, Any] = reply.item(shown)
            if several:
                item["index"] = delta.index
            yield event(item)
