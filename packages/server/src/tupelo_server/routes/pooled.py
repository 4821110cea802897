"""Embeddings, ranking and classification: texts in, numbers out."""

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import InvalidRequest
from tupelo.pooling import PoolingInfo, PoolingParams, PoolingTask, described, scores
from tupelo_server.connection import while_connected
from tupelo_server.generation import Prompt
from tupelo_server.pooling import Pooled, Pooler, PoolingJob
from tupelo_server.protocol.completion import split_prompts
from tupelo_server.protocol.fields import check_priority, client_names, documents, each
from tupelo_server.protocol.openai import new_id
from tupelo_server.protocol.pooled import (
    ClassifyBody,
    EmbeddingsBody,
    EncodeBody,
    PooledBody,
    RerankBody,
)
from tupelo_server.state import frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()

B = TypeVar("B", bound=PooledBody)

_VERBS = {
    PoolingTask.EMBED: "makes no embeddings",
    PoolingTask.RANK: "ranks nothing",
    PoolingTask.CLASSIFY: "classifies nothing",
}


@router.post("/v1/embeddings", openapi_extra=documents(EmbeddingsBody))
async def embeddings(request: Request) -> Response:
    """OpenAI's embeddings."""
    body = await _parsed(request, EmbeddingsBody)
    pooler = pooler_of(request, PoolingTask.EMBED)
    if pooler.info.per_token and body.encoding_format == "base64":
        raise InvalidRequest(
            "encoding_format: base64 holds one vector; this model makes one for each token",
            param="encoding_format",
        )
    prompts, found = await embedded(request, pooler, body)
    data = [
        {
            "object": "embedding",
            "embedding": _coded(pooled, pooler.info, body.encoding_format),
            "index": index,
        }
        for index, pooled in enumerate(found)
    ]
    usage = usage_of(prompts)
    model = body.model or frontend_of(request).model_name
    return JsonResponse({"object": "list", "data": data, "model": model, "usage": usage})


@router.post("/v1/classify", openapi_extra=documents(ClassifyBody))
async def classify(request: Request) -> Response:
    """The class of each text, with the probability of each class."""
    body = await _parsed(request, ClassifyBody)
    pooler = pooler_of(request, PoolingTask.CLASSIFY)
    if pooler.info.per_token:
        raise InvalidRequest(
            "this model classifies each token, not a text; /classify has a row for each",
            param="model",
        )
    prompts = await framed(request, pooler, body, body.input, "input")
    jobs = _jobs(request, body, prompts, PoolingParams())
    found = await _run(request, pooler, jobs, {"prompt": "input", "input_ids": "input"})
    return JsonResponse(
        {
            "id": new_id("classify"),
            "object": "list",
            "created": int(time.time()),
            "model": body.model or frontend_of(request).model_name,
            "data": [
                {"index": index, **_classes(pooled, pooler.info)}
                for index, pooled in enumerate(found)
            ],
            "usage": usage_of(prompts),
        }
    )


@router.post("/v1/rerank", openapi_extra=documents(RerankBody))
@router.put("/v1/rerank", openapi_extra=documents(RerankBody))
async def rerank(request: Request) -> Response:
    """Documents by how well they fit a query, the best first."""
    body = await _parsed(request, RerankBody)
    pooler = pooler_of(request, PoolingTask.RANK)
    num_returned = body.num_returned()
    limit = body.limit(longest_of(request, pooler))
    pairs = [(body.query, document) for document in body.documents]
    prompts, params = await paired(pooler, pairs, body.instruct or "", limit)
    jobs = _jobs(request, body, prompts, params)
    found = await _run(request, pooler, jobs, {"prompt": "documents", "input_ids": "documents"})
    results: list[dict[str, Any]] = [
        {
            "score": rank_score(pooled, pooler.info),
            "document": body.documents[index] if body.return_documents else None,
            "index": index,
            "meta_info": _meta(jobs[index], pooled),
        }
        for index, pooled in enumerate(found)
    ]
    results.sort(key=lambda result: result["score"], reverse=True)
    return JsonResponse(results[:num_returned])


@router.post("/encode", openapi_extra=documents(EncodeBody))
@router.put("/encode", openapi_extra=documents(EncodeBody))
async def encode(request: Request) -> Response:
    """Vectors of texts, in SGLang's shape; of other models than embedding ones their numbers."""
    return await _encode(request, None)


@router.post("/classify", openapi_extra=documents(EncodeBody))
@router.put("/classify", openapi_extra=documents(EncodeBody))
async def classify_native(request: Request) -> Response:
    """A classifier's or a reward model's numbers, in the shape of ``/encode``."""
    return await _encode(request, PoolingTask.CLASSIFY)


async def _encode(request: Request, task: PoolingTask | None) -> Response:
    body = await _parsed(request, EncodeBody)
    inputs = body.inputs()
    pooler = pooler_of(request, PoolingTask.RANK if body.is_cross_encoder_request else task)
    params: PoolingParams | list[PoolingParams]
    params = _params(pooler.info, body.dimensions, body.output)
    if body.step_tag_id is not None and not pooler.info.per_token:
        raise InvalidRequest("step_tag_id: this model judges no tokens", param="step_tag_id")
    if body.is_cross_encoder_request:
        limit = body.limit(longest_of(request, pooler))
        prompts, params = await paired(pooler, body.pairs(), "", limit)
    else:
        name = "input_ids" if body.text is None else "text"
        prompts = await framed(request, pooler, body, inputs, name)
    jobs = _jobs(request, body, prompts, params)
    found = await _run(request, pooler, jobs, {"prompt": "text"})
    special = frontend_of(request).prompts.tokenizer.special_ids
    items = [
        {
            **described(
                pooled.rows,
                job.params.head,
                job.prompt.ids,
                special,
                per_token=pooler.info.per_token,
                only=body.step_tag_id,
            ),
            "meta_info": _meta(job, pooled),
        }
        for job, pooled in zip(jobs, found, strict=True)
    ]
    return JsonResponse(items[0] if body.single else items)


# Shared with the route of scores


async def embedded(
    request: Request, pooler: Pooler, body: EmbeddingsBody, name: str = "input"
) -> tuple[list[Prompt], list[Pooled]]:
    """The prompts of a body, and what was made of them.

    Args:
        name: what the client calls the texts.

    Raises:
        RequestError: see ``framed`` and ``Pooler.embed``.
    """
    prompts = await framed(request, pooler, body, body.input, name)
    jobs = _jobs(request, body, prompts, _params(pooler.info, body.dimensions))
    return prompts, await _run(request, pooler, jobs, {"prompt": name, "input_ids": name})


def pooler_of(request: Request, task: PoolingTask | None) -> Pooler:
    """What pools with the model being served; ``task``: what it is to be able to do.

    Raises:
        EngineUnavailable: it is not ready yet.
        InvalidRequest: the model does something else; the message says what.
    """
    pooler = frontend_of(request).pooler
    if pooler is None:
        raise InvalidRequest(
            f"this model generates text; it {_VERBS[task or PoolingTask.EMBED]}. Serve a model for "
            "that",
            param="model",
        )
    if task is not None and task not in pooler.info.tasks:
        able = " and ".join(known.value for known in pooler.info.tasks)
        raise InvalidRequest(f"this model is for: {able}; it {_VERBS[task]}", param="model")
    return pooler


def longest_of(request: Request, pooler: Pooler) -> int:
    """Tokens of the longest prompt that the model takes."""
    context = frontend_of(request).info.context_length
    return min(pooler.info.max_length or context, context)


async def framed(
    request: Request, pooler: Pooler, body: PooledBody, inputs: Any, name: str
) -> list[Prompt]:
    """Prompts of texts, between the special tokens that the model wants, or of ids as they are.

    Args:
        name: the field that ``inputs`` came in.

    Raises:
        InvalidRequest: no such inputs, or a text that is no valid Unicode.
    """
    limit = body.limit(longest_of(request, pooler))
    given = split_prompts(inputs, name)
    texts = [prompt for prompt in given if isinstance(prompt, str)]
    if texts:
        return await frontend_of(request).prompts.framed(texts, limit)
    return [Prompt(ids[: limit or None]) for ids in given if not isinstance(ids, str)]


def usage_of(prompts: Sequence[Prompt]) -> dict[str, int]:
    """OpenAI's usage where nothing is generated."""
    tokens = sum(len(prompt.ids) for prompt in prompts)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


async def paired(
    pooler: Pooler, pairs: Sequence[tuple[str, str]], instruct: str, limit: int
) -> tuple[list[Prompt], list[PoolingParams]]:
    """Prompts of pairs of texts, made in a thread."""

    def make() -> list[tuple[Prompt, int]]:
        return [pooler.pair(a, b, instruct=instruct, max_tokens=limit) for a, b in pairs]

    made = await asyncio.to_thread(make)
    return [prompt for prompt, _ in made], [PoolingParams(second=second) for _, second in made]


def rank_score(pooled: Pooled, info: PoolingInfo) -> float:
    """How well a pair fits, larger is better."""
    return float(scores(pooled.rows[0], info.activation)[-1])


async def _parsed(request: Request, kind: type[B]) -> B:
    frontend = frontend_of(request)
    body = kind.parse(await read_object(request, state_of(request).config.request_timeout_s))
    frontend.check_name(body.model)
    return body


def _params(info: PoolingInfo, dimensions: int | None, output: str = "") -> PoolingParams:
    if dimensions is not None and dimensions < 1:
        raise InvalidRequest(
            f"dimensions: got {dimensions}; must be at least 1", param="dimensions"
        )
    return info.params(head=output, dimensions=dimensions or 0)


def _jobs(
    request: Request,
    body: PooledBody,
    prompts: Sequence[Prompt],
    params: PoolingParams | Sequence[PoolingParams],
) -> list[PoolingJob]:
    count = len(prompts)
    priority = check_priority(body.priority, state_of(request).engine_config.schedule_policy)
    all_params = [params] * count if isinstance(params, PoolingParams) else params
    rids = [rid or new_id("pool") for rid in each("rid", body.rid, count)]
    return [
        PoolingJob(prompt=prompt, params=own, rid=rid, priority=priority)
        for prompt, own, rid in zip(prompts, all_params, rids, strict=True)
    ]


async def _run(
    request: Request, pooler: Pooler, jobs: Sequence[PoolingJob], names: dict[str, str]
) -> list[Pooled]:
    with client_names(names):
        return await while_connected(request.receive, pooler.embed(jobs, owner_of(request)))


def _meta(job: PoolingJob, pooled: Pooled) -> dict[str, Any]:
    return {
        "id": job.rid,
        "prompt_tokens": len(job.prompt.ids),
        "cached_tokens": pooled.cached_tokens,
    }


def _listed(pooled: Pooled, info: PoolingInfo) -> list[Any]:
    rows: list[Any] = pooled.rows.tolist()
    row: list[Any] = rows[0]
    return rows if info.per_token else row


def _coded(pooled: Pooled, info: PoolingInfo, encoding: str) -> Any:
    if encoding == "float":
        return _listed(pooled, info)
    return base64.b64encode(pooled.rows[0].astype("<f4").tobytes()).decode()


def _classes(pooled: Pooled, info: PoolingInfo) -> dict[str, Any]:
    probs = scores(pooled.rows[-1], info.activation)
    best = int(np.argmax(probs))
    label = info.labels[best] if best < len(info.labels) else f"LABEL_{best}"
    return {"label": label, "probs": probs.tolist(), "num_classes": len(probs)}
