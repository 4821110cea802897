"""What each method of the service does, by the same checks and the same path as over HTTP."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from tupelo.errors import InvalidRequest, RequestError
from tupelo.pooling import PoolingParams, PoolingTask
from tupelo_server.engine_client import Frontend
from tupelo_server.generation import Delta, Job
from tupelo_server.pooling import PoolingJob
from tupelo_server.protocol.fields import client_names
from tupelo_server.protocol.native import GenerateBody
from tupelo_server.protocol.openai import new_id
from tupelo_server.rows import Row
from tupelo_server.rpc.messages import given, message
from tupelo_server.state import ServerState

_TOP = "top_logprobs_num"


class Service:
    """The methods. ``owner`` is the digest of the caller's key."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def generate(self, request: Any, owner: str) -> AsyncGenerator[Any, None]:
        """Responses to a ``GenerateRequest``; closing the generator ends the work."""
        state, frontend = self._state, self._frontend()
        body = GenerateBody.parse(_generate_values(request))
        (job,) = body.jobs(
            await frontend.prompts.of_any(body.prompts()),
            policy=state.engine_config.schedule_policy,
            vocab_size=frontend.info.vocab_size,
            stream_interval=state.config.stream_interval,
        )
        with client_names({"top_logprobs": _TOP, "prompt": "text"}):
            if request.whole:
                for delta in await frontend.collect([job], owner):
                    yield _response(job, delta)
                return
            deltas = frontend.run([job], owner)
        async with aclosing(deltas):
            async for delta in deltas:
                yield _response(job, delta)

    async def embed(self, request: Any, owner: str) -> Any:
        """The vector of one text."""
        frontend = self._frontend()
        pooler = frontend.pooler
        if pooler is None or PoolingTask.EMBED not in pooler.info.tasks:
            raise InvalidRequest(f"{frontend.model_name} makes no embeddings", param="model")
        values = given(request)
        if "text" in values:
            (prompt,) = await frontend.prompts.of_texts([values["text"]])
        else:
            ids = values["input_ids"].ids if "input_ids" in values else ()
            (prompt,) = await frontend.prompts.of_any([tuple(ids)])
        job = PoolingJob(
            prompt=prompt,
            params=PoolingParams(normalize=pooler.info.normalize),
            rid=request.rid or new_id("embd"),
        )
        (pooled,) = await pooler.embed([job], owner)
        return message("EmbedResponse")(
            values=pooled.rows[0].tolist(), prompt_tokens=len(prompt.ids)
        )

    async def tokenize(self, request: Any, owner: str) -> Any:
        """The ids of a text."""
        special = given(request).get("add_special_tokens", True)
        prompts = self._frontend().prompts
        (prompt,) = await prompts.of_texts([request.text], add_special_tokens=special)
        return message("TokenizeResponse")(ids=prompt.ids)

    async def detokenize(self, request: Any, owner: str) -> Any:
        """The text of ids."""
        skip = given(request).get("skip_special_tokens", True)
        prompts = self._frontend().prompts
        (text,) = await prompts.text_of([list(request.ids)], skip_special_tokens=skip)
        return message("DetokenizeResponse")(text=text)

    async def health(self, request: Any, owner: str) -> Any:
        """Whether requests can be served; asks the engine for no work."""
        ready, reason = self.readiness()
        return message("HealthResponse")(ready=ready, reason=reason)

    async def model_info(self, request: Any, owner: str) -> Any:
        """What is being served."""
        frontend = self._frontend()
        info = frontend.info
        return message("ModelInfoResponse")(
            served_model_name=frontend.model_name,
            architecture=info.architecture,
            dtype=info.dtype,
            backend=info.backend,
            vocab_size=info.vocab_size,
            context_length=info.context_length,
            max_total_tokens=info.max_total_tokens,
            eos_token_ids=info.eos_token_ids,
            weight_version=frontend.weight_version,
        )

    async def abort(self, request: Any, owner: str) -> Any:
        """End the caller's own requests of this id."""
        if not request.rid:
            raise InvalidRequest("rid: give the id of the request to end", param="rid")
        await self._frontend().abort(request.rid, owner)
        return message("AbortResponse")()

    async def flush_cache(self, request: Any, owner: str) -> Any:
        """Forget every cached prefix."""
        if not await self._frontend().engine.control("flush_cache"):
            raise RequestsRunning("the cache is in use; try again when no request runs")
        return message("FlushCacheResponse")()

    def readiness(self) -> tuple[bool, str]:
        """Whether requests can be served, and if not, why."""
        state = self._state
        if state.draining:
            return False, "the server is stopping"
        if state.frontend is not None and state.frontend.held:
            return False, "an operator holds the engine"
        found = state.health()
        return found.ready, "" if found.ready else found.reason

    def _frontend(self) -> Frontend:
        """The way to the engine.

        Raises:
            EngineUnavailable: there is no model now.
        """
        return self._state.serving()


class RequestsRunning(RequestError):
    """Something that needs an idle engine."""

    status = 409
    code = "requests_running"


def _generate_values(request: Any) -> dict[str, Any]:
    """The body of ``/generate`` that says the same."""
    values = given(request)
    values.pop("whole", None)
    values["stream"] = not request.whole
    if "input_ids" in values:
        values["input_ids"] = list(values["input_ids"].ids)
    if "sampling_params" in values:
        values["sampling_params"] = given(values["sampling_params"])
    return values


def _response(job: Job, delta: Delta) -> Any:
    fields: dict[str, Any] = {
        "index": delta.index,
        "text": delta.text,
        "output_ids": delta.token_ids,
        "prompt_tokens": len(job.prompt.ids),
        "completion_tokens": delta.completion_tokens,
        "cached_tokens": delta.cached_tokens,
        "logprobs": [_row(row) for row in delta.rows],
        "prompt_logprobs": [_row(row) for row in delta.prompt_rows or ()],
    }
    if delta.end is not None:
        fields["finish_reason"] = str(delta.end.reason)
        if delta.end.matched is not None:
            fields["matched_stop"] = str(delta.end.matched)
    return message("GenerateResponse")(**fields)


def _row(row: Row) -> Any:
    top = [message("TopLogprob")(token_id=token, logprob=value) for token, value in row.top]
    found = message("TokenLogprob")(token_id=row.token_id, text=row.text, top=top)
    if row.logprob is not None:
        found.logprob = row.logprob
    return found


async def follow(service: Service, tell: Any, *, every_s: float = 0.5) -> None:
    """Call ``tell(ready)`` at once, and then whenever readiness changes. Runs until cancelled."""
    before: bool | None = None
    while True:
        ready, _ = service.readiness()
        if ready is not before:
            before = ready
            await tell(ready)
        await asyncio.sleep(every_s)
