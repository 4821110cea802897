"""``POST /v1/chat/completions``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.connection import EventStream, event, while_connected
from tupelo_server.engine_client import Frontend
from tupelo_server.generation import Delta, Job, Prompt
from tupelo_server.protocol.chat import ChatBody
from tupelo_server.protocol.chat_choices import ChatChoices
from tupelo_server.protocol.fields import (
    StreamOptions,
    check_priority,
    client_names,
    documents,
)
from tupelo_server.protocol.meta import MetaInfo
from tupelo_server.protocol.openai import Reply, new_id
from tupelo_server.reasoning import thinking_variables
from tupelo_server.state import ServerState, frontend_of, owner_of, state_of
from tupelo_server.tools import ToolUse
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
    job = await _job(body, state, frontend)
    reply = Reply(
        id=job.rid,
        kind="chat.completion.chunk" if body.stream else "chat.completion",
        model=body.model or state.model_name,
        jobs=[job],
        weight_version=state.weight_version,
        cache_report=state.config.enable_cache_report,
        cached_details=body.return_cached_tokens_details,
    )
    tokenizer = frontend.prompts.tokenizer
    meta = MetaInfo([job], tokenizer, weight_version=state.weight_version)
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
            deltas = frontend.run([job], owner_of(request))
            return EventStream(_events(reply, choices, deltas, options))
        found = await while_connected(request.receive, frontend.collect([job], owner_of(request)))
    reply.count(found)
    return JsonResponse(reply.whole([choices.whole(delta) for delta in found]))


async def _job(body: ChatBody, state: ServerState, frontend: Frontend) -> Job:
    info = frontend.info
    params = body.sampling(body.limit, info.generation_defaults, info.vocab_size)
    own, use, formats = body.grammar, body.tool_use, frontend.prompts.formats
    num_top = body.num_top
    priority = check_priority(body.priority, state.engine_config.schedule_policy)
    (salt,) = body.salts(1)
    (rid,) = body.rids(new_id("chatcmpl"), 1)
    prompt = await _prompt(body, use, state, frontend)
    form = formats.reply_form(use, own, prompt.text)
    parsing = formats.parsing(form, prompt.text, separate_reasoning=body.separate_reasoning)
    return Job(
        prompt=prompt,
        params=params,
        rid=rid,
        stream=body.stream,
        stream_interval=state.config.stream_interval,
        salt=salt,
        priority=priority,
        logprobs=body.logprobs,
        top_logprobs=num_top,
        grammar=form.grammar(),
        parsing=parsing if parsing.finds_anything else None,
    )


async def _prompt(body: ChatBody, use: ToolUse, state: ServerState, frontend: Frontend) -> Prompt:
    """What the model reads: the given ids, or the conversation as its template renders it."""
    messages = body.checked_messages()
    template, variables = body.template(trusted=state.config.trust_request_chat_template)
    opens_reply = body.opens_reply
    if body.input_ids is not None:
        return Prompt(tuple(body.input_ids))
    return await frontend.prompts.of_messages(
        messages,
        add_generation_prompt=opens_reply,
        continue_final_message=body.continue_final_message,
        tools=use.tools,
        template=template,
        template_kwargs=thinking_variables(
            body.reasoning_effort,
            variables,
            template or frontend.prompts.template(tools=bool(use.tools)),
        ),
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
    for chunk in reply.last_chunks(usage=options.include_usage):
        yield event(chunk)
