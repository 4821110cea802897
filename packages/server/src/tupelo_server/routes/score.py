"""``/v1/score``: how probable labels are after a query and each of some items."""

import math
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import InvalidRequest
from tupelo.pooling import PoolingParams, PoolingTask
from tupelo.request import SamplingParams
from tupelo_server.connection import while_connected
from tupelo_server.generation import Job, Prompt
from tupelo_server.pooling import Pooler, PoolingJob
from tupelo_server.protocol.fields import check_priority, client_names, documents, each
from tupelo_server.protocol.openai import new_id
from tupelo_server.protocol.pooled import ScoreBody
from tupelo_server.routes.pooled import (
    framed,
    longest_of,
    paired,
    pooler_of,
    rank_score,
    usage_of,
)
from tupelo_server.state import frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()

_NAMES = {
    "prompt": "items",
    "input_ids": "items",
    "token_ids_logprob": "label_token_ids",
    "n": "items",
}


@router.post("/v1/score", openapi_extra=documents(ScoreBody))
async def score(request: Request) -> Response:
    """A row of scores for each item: of the labels' ids, or of a classifier's classes."""
    state, frontend = state_of(request), frontend_of(request)
    body = ScoreBody.parse(await read_object(request, state.config.request_timeout_s))
    frontend.check_name(body.model)
    heat, prompts = body.heat(), body.prompts()
    with client_names(_NAMES):
        if frontend.pooler is not None:
            ranks = PoolingTask.RANK in frontend.pooler.info.tasks
            pooler = pooler_of(request, None if ranks else PoolingTask.CLASSIFY)
            rows, made = await _by_class(request, pooler, body, prompts)
            found = [_softmax(row, heat) if body.apply_softmax else row for row in rows]
        else:
            rows, made = await _by_label(request, body, prompts)
            found = [
                _softmax(row, heat) if body.apply_softmax else [math.exp(v) for v in row]
                for row in rows
            ]
    reply = {
        "object": "scoring",
        "scores": found,
        "model": body.model or frontend.model_name,
        "usage": usage_of(made),
    }
    return JsonResponse({**reply, "token_logprobs": rows} if body.return_token_logprobs else reply)


async def _by_label(
    request: Request, body: ScoreBody, prompts: Sequence[str] | Sequence[tuple[int, ...]]
) -> tuple[list[list[float]], list[Prompt]]:
    """Log-probabilities of each item's labels as the next token."""
    frontend = frontend_of(request)
    if body.truncate_prompt_tokens is not None:
        raise InvalidRequest(
            "truncate_prompt_tokens: the next token would follow a cut text; shorten the items",
            param="truncate_prompt_tokens",
        )
    labels = body.labels(len(prompts))
    priority = check_priority(body.priority, state_of(request).engine_config.schedule_policy)
    rids = [rid or new_id("score") for rid in each("rid", body.rid, len(prompts))]
    if not prompts:
        return [], []
    made = await frontend.prompts.of_any(prompts)
    jobs = [
        Job(
            prompt=prompt,
            params=SamplingParams(max_new_tokens=1, temperature=0.0, ignore_eos=True),
            rid=rid,
            priority=priority,
            logprobs=True,
            token_ids_logprob=ids,
        )
        for prompt, rid, ids in zip(made, rids, labels, strict=True)
    ]
    running = frontend.collect(jobs, owner_of(request))
    found = await while_connected(request.receive, running)
    return [list(delta.rows[0].wanted) for delta in found], made


async def _by_class(
    request: Request,
    pooler: Pooler,
    body: ScoreBody,
    prompts: Sequence[str] | Sequence[tuple[int, ...]],
) -> tuple[list[list[float]], list[Prompt]]:
    """A classifier's numbers for each item; of a model that ranks, how well query and item fit."""
    for name in ("label_token_ids", "return_token_logprobs"):
        if getattr(body, name):
            raise InvalidRequest(
                f"{name}: this model has classes instead of labels; leave it out", param=name
            )
    priority = check_priority(body.priority, state_of(request).engine_config.schedule_policy)
    rids = [rid or new_id("score") for rid in each("rid", body.rid, len(prompts))]
    if not prompts:
        return [], []
    ranks = PoolingTask.RANK in pooler.info.tasks and isinstance(body.query, str)
    if ranks:
        limit = body.limit(longest_of(request, pooler))
        made, params = await paired(pooler, body.pairs(), "", limit)
    else:
        made = await framed(request, pooler, body, _as_lists(prompts), "items")
        params = [PoolingParams()] * len(made)
    jobs = [
        PoolingJob(prompt=prompt, params=own, rid=rid, priority=priority)
        for prompt, own, rid in zip(made, params, rids, strict=True)
    ]
    running = pooler.embed(jobs, owner_of(request))
    found = await while_connected(request.receive, running)
    if ranks:
        return [[rank_score(pooled, pooler.info)] for pooled in found], made
    return [pooled.rows[0].tolist() for pooled in found], made


def _as_lists(prompts: Sequence[str] | Sequence[tuple[int, ...]]) -> list[Any]:
    return [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts]


def _softmax(row: Sequence[float], heat: float) -> list[float]:
    """Probabilities that add up to 1, of log-probabilities or of any numbers."""
    best = max(row)
    powers = [math.exp((value - best) / heat) for value in row]
    return [power / sum(powers) for power in powers]
