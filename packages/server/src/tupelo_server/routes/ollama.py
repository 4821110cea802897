"""Ollama's API: ``/api/chat``, ``/api/generate``, and embeddings."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import ContextLengthExceeded, InvalidRequest, RequestError
from tupelo.pooling import PoolingTask
from tupelo_server.chat_jobs import chat_job, chat_prompt
from tupelo_server.connection import LINES, EventStream, while_connected
from tupelo_server.context import context
from tupelo_server.engine_client import Frontend
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.fields import client_names, documents
from tupelo_server.protocol.ollama import (
    NAMES,
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
)
from tupelo_server.protocol.ollama_options import OllamaOptions
from tupelo_server.protocol.ollama_reply import OllamaReply, loaded
from tupelo_server.protocol.pooled import EmbeddingsBody
from tupelo_server.routes.pooled import embedded, longest_of, pooler_of
from tupelo_server.state import ServerState, frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, encode_json, read_object

router = APIRouter()


@router.post("/api/chat", openapi_extra=documents(OllamaChatBody))
async def chat(request: Request) -> Response:
    """A turn of a conversation, as Ollama answers it."""
    state, frontend = state_of(request), frontend_of(request)
    values = await read_object(request, state.config.request_timeout_s)
    with client_names({**NAMES, "prompt": "messages"}):
        body = OllamaChatBody.parse(values)
        options = body.checked_options()
        if not body.messages:
            frontend.check_name(body.model)
            return JsonResponse(loaded(body.model, chat=True))
        _check_thoughts(body.think, frontend)
        job = _fitted(await chat_job(body.chat(), state, frontend), options, frontend)
        reply = OllamaReply(body.model, job, frontend.prompts.tokenizer, chat=True)
        return await _replied(request, reply, job)


@router.post("/api/generate", openapi_extra=documents(OllamaGenerateBody))
async def generate(request: Request) -> Response:
    """A user's prompt, or raw text to go on with, as Ollama answers it."""
    state, frontend = state_of(request), frontend_of(request)
    values = await read_object(request, state.config.request_timeout_s)
    with client_names(NAMES):
        body = OllamaGenerateBody.parse(values)
        options = body.checked_options()
        if not body.prompt:
            frontend.check_name(body.model)
            return JsonResponse(loaded(body.model, chat=False))
        _check_thoughts(body.think, frontend)
        job = _fitted(await _generate_job(body, state, frontend), options, frontend)
        reply = OllamaReply(
            body.model, job, frontend.prompts.tokenizer, chat=False, context=not body.raw
        )
        return await _replied(request, reply, job)


@router.post("/api/embed", openapi_extra=documents(OllamaEmbedBody))
async def embed(request: Request) -> Response:
    """Vectors of texts, as Ollama answers them."""
    values = await read_object(request, state_of(request).config.request_timeout_s)
    body = OllamaEmbedBody.parse(values)
    texts = [body.input] if isinstance(body.input, str) and body.input else list(body.input)
    fields = {"input": texts, "dimensions": body.dimensions}
    vectors, num_tokens = await _vectors(request, body, fields, cut=body.truncate, name="input")
    return JsonResponse(
        {
            "model": body.model,
            "embeddings": vectors,
            "total_duration": round((time.monotonic() - context().received_s) * 1e9),
            "prompt_eval_count": num_tokens,
        }
    )


@router.post("/api/embeddings", openapi_extra=documents(OllamaEmbeddingsBody))
async def embeddings(request: Request) -> Response:
    """The vector of one text: Ollama's older route."""
    values = await read_object(request, state_of(request).config.request_timeout_s)
    body = OllamaEmbeddingsBody.parse(values)
    fields = {"input": [body.prompt] if body.prompt else []}
    vectors, _ = await _vectors(request, body, fields, cut=True, name="prompt")
    return JsonResponse({"embedding": vectors[0] if vectors else []})


async def _vectors(
    request: Request,
    body: OllamaEmbedBody | OllamaEmbeddingsBody,
    fields: dict[str, Any],
    *,
    cut: bool,
    name: str,
) -> tuple[Sequence[Any], int]:
    """A vector for each text, and how many tokens they have together; nothing for no texts."""
    frontend_of(request).check_name(body.model)
    pooler = pooler_of(request, PoolingTask.EMBED)
    options = body.checked_options()
    options.refuse_sampling()
    if pooler.info.per_token:
        raise InvalidRequest(
            "model: it makes a vector for each token, not one for a text; /encode has them",
            param="model",
        )
    limit = options.context(longest_of(request, pooler))
    if not fields["input"]:
        return [], 0
    if cut or options.num_ctx is not None:
        fields["truncate_prompt_tokens"] = limit
    if not cut and options.num_ctx is not None:
        raise InvalidRequest("num_ctx: has no meaning where truncate is false", param="num_ctx")
    asked = EmbeddingsBody.parse(fields)
    prompts, found = await embedded(request, pooler, asked, name)
    return [pooled.rows[0].tolist() for pooled in found], sum(len(p.ids) for p in prompts)


def _check_thoughts(think: bool | str | None, frontend: Frontend) -> None:
    if think and frontend.prompts.formats.reasoning is None:
        raise InvalidRequest("think: this model does not think", param="think")


async def _generate_job(body: OllamaGenerateBody, state: ServerState, frontend: Frontend) -> Job:
    """A turn of its own, one behind the tokens of ``context``, or text as it is.

    Raises:
        RequestError, TemplateError: see ``chat_job``.
    """
    prompts, asked = frontend.prompts, body.chat()
    if body.raw:
        (prompt,) = await prompts.of_any([body.prompt])
        plain = {"input_ids": [*prompt.ids], "separate_reasoning": False}
        return await chat_job(asked.model_copy(update=plain), state, frontend)
    if not body.context:
        return await chat_job(asked, state, frontend)
    turn = (await chat_prompt(asked, asked.tool_use, state, frontend)).ids
    first = prompts.tokenizer.bos_token
    if first is not None and turn and turn[0] == prompts.tokenizer.token_to_id(first):
        turn = turn[1:]
    longer = {"input_ids": [*body.context, *turn]}
    return await chat_job(asked.model_copy(update=longer), state, frontend)


def _fitted(job: Job, options: OllamaOptions, frontend: Frontend) -> Job:
    """The job, its output bounded by ``num_ctx`` and by the room there is.

    Raises:
        ContextLengthExceeded: the prompt leaves none.
    """
    length, size = options.context(frontend.info.context_length), len(job.prompt.ids)
    if size >= length:
        raise ContextLengthExceeded(
            f"the prompt has {size} tokens, which leaves no room in a context of {length}; "
            "shorten it",
            param="prompt",
        )
    wanted = job.params.max_new_tokens
    room = length - size if wanted is None else min(wanted, length - size)
    return replace(job, params=replace(job.params, max_new_tokens=room), timed=True)


async def _replied(request: Request, reply: OllamaReply, job: Job) -> Response:
    frontend, owner = frontend_of(request), owner_of(request)
    if job.stream:
        deltas = frontend.run([job], owner)
        return EventStream(_lines(reply, deltas), done=b"", failed=_failed, content_type=LINES)
    (delta,) = await while_connected(request.receive, frontend.collect([job], owner))
    return JsonResponse(reply.whole(delta))


async def _lines(
    reply: OllamaReply, deltas: AsyncGenerator[Delta, None]
) -> AsyncGenerator[bytes, None]:
    """The lines of one delta go out together."""
    async with aclosing(deltas):
        async for delta in deltas:
            lines = b"".join(map(_line, reply.lines(delta)))
            if lines:
                yield lines


def _line(data: dict[str, Any]) -> bytes:
    return encode_json(data) + b"\n"


def _failed(error: RequestError) -> bytes:
    return _line({"error": str(error)})
