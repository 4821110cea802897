"""``/v1/responses``, OpenAI's Responses API: made at once or in the background, and kept."""

import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import InvalidRequest, RequestError
from tupelo_server.chat_jobs import chat_job
from tupelo_server.connection import EventStream, while_connected
from tupelo_server.errors import NotFound
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.fields import documents
from tupelo_server.protocol.responses import ResponsesBody, response_names
from tupelo_server.protocol.responses_items import Item, check_calls, checked_items, messages_of
from tupelo_server.protocol.responses_reply import ResponseReply
from tupelo_server.response_runs import Run, named
from tupelo_server.response_store import Entry, ResponseStore
from tupelo_server.state import frontend_of, owner_of, state_of
from tupelo_server.wire import JsonResponse, encode_json, read_object

router = APIRouter()

_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_MOST_ITEMS, _ITEMS = 100, 20
"""Of a list of input items: at most, and where the request says nothing."""


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


_STREAM = _query("stream", {"type": "boolean"})
_AFTER_EVENT = _query("starting_after", {"type": "integer"})
_LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": _MOST_ITEMS})
_ORDER = _query("order", {"enum": ["asc", "desc"]})
_AFTER_ITEM = _query("after", {"type": "string"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    """A request in all that is made of it.

    Attributes:
        own: the items of its input. entry: where its response will be kept; None if it will not.
    """

    job: Job
    reply: ResponseReply
    own: list[Item]
    entry: Entry | None


@router.post("/v1/responses", openapi_extra=documents(ResponsesBody))
async def create_response(request: Request) -> Response:
    """A response to a conversation."""
    state, frontend, owner = state_of(request), frontend_of(request), owner_of(request)
    values = await read_object(request, state.config.request_timeout_s)
    body = ResponsesBody.parse(values)
    body.check()
    with response_names():
        turn = await _turn(request, body)
        if body.background or body.stream:
            deltas = _renamed(frontend.run([turn.job], owner))
            if body.background:
                run = _run(turn, deltas, state.responses, streams=body.stream)
                return _followed(run, -1) if body.stream else JsonResponse(run.response)
            events = _events(turn, deltas, state.responses)
            return EventStream(events, done=b"", failed=lambda error: _failed(turn.reply, error))
        work = frontend.collect([turn.job], owner)
        (delta,) = await while_connected(request.receive, work)
    response = turn.reply.whole(delta)
    _keep(turn, state.responses)
    return JsonResponse(response)


@router.get("/v1/responses/{id}", openapi_extra={"parameters": [_ID, _STREAM, _AFTER_EVENT]})
async def response(request: Request) -> Response:
    """A response that is kept; one that is made in the background may be followed."""
    entry, query = _entry_of(request), request.query_params
    _refuse_includes(request)
    streamed = _choice(request, "stream", ("false", "true")) == "true"
    if not streamed:
        if "starting_after" in query:
            _wrong("starting_after", "needs stream to be true")
        return JsonResponse(entry.response)
    after = _number(request, "starting_after", -1, (0, 2**53))
    if entry.run is None or not entry.run.streams:
        _wrong("stream", "only a response made with background and stream can be streamed later")
    return _followed(entry.run, after)


@router.delete("/v1/responses/{id}", openapi_extra={"parameters": [_ID]})
async def delete_response(request: Request) -> Response:
    """Forget a response; one that is being made is cancelled."""
    entry = _entry_of(request)
    state_of(request).responses.remove(entry)
    if entry.run is not None:
        await entry.run.cancel()
    return JsonResponse({"id": entry.id, "object": "response", "deleted": True})


@router.post("/v1/responses/{id}/cancel", openapi_extra={"parameters": [_ID]})
async def cancel_response(request: Request) -> Response:
    """Cancel a response that is made in the background; one that has ended stays as it is."""
    entry = _entry_of(request)
    if not entry.response["background"]:
        raise InvalidRequest("only a response made with background can be cancelled", param="id")
    if entry.run is not None:
        await entry.run.cancel()
    return JsonResponse(entry.response)


@router.get(
    "/v1/responses/{id}/input_items",
    openapi_extra={"parameters": [_ID, _LIMIT, _ORDER, _AFTER_ITEM]},
)
async def input_items(request: Request) -> Response:
    """The conversation that a response answers, item by item, earlier turns' included."""
    items = _entry_of(request).input
    _refuse_includes(request)
    limit = _number(request, "limit", _ITEMS, (1, _MOST_ITEMS))
    if _choice(request, "order", ("desc", "asc")) == "desc":
        items.reverse()
    after = request.query_params.get("after")
    if after is not None:
        place = next((n for n, item in enumerate(items) if item["id"] == after), None)
        if place is None:
            _wrong("after", "there is no such item in this response's input")
        items = items[place + 1 :]
    page = items[:limit]
    return JsonResponse(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > len(page),
        }
    )


async def _turn(request: Request, body: ResponsesBody) -> _Turn:
    """What a body asks for, checked.

    Raises:
        RequestError: it cannot be had.
    """
    state, frontend, owner = state_of(request), frontend_of(request), owner_of(request)
    store, id = state.responses, f"resp_{secrets.token_hex(24)}"
    before = _before(body, store, owner)
    own = checked_items(body.input, store.items_of(owner))
    check_calls(before, own)
    items = [*before, *own]
    entry = _entry(body, store, Entry(id, owner, b""), items)
    job = await chat_job(body.chat(messages_of(items), id), state, frontend)
    reply = ResponseReply(
        id,
        body.model or frontend.model_name,
        body,
        job,
        frontend.prompts.tokenizer,
        store=entry is not None,
        cache_report=state.config.enable_cache_report,
    )
    return _Turn(job=job, reply=reply, own=own, entry=entry)


def _before(body: ResponsesBody, store: ResponseStore, owner: str) -> list[Item]:
    """The conversation that the request goes on with."""
    if body.previous_response_id is None:
        return []
    entry = store.find(owner, body.previous_response_id)
    if entry is None:
        raise InvalidRequest(
            f"previous_response_id: there is no response {body.previous_response_id!r:.100}",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    found = entry.response
    if found["status"] in ("queued", "in_progress"):
        raise InvalidRequest(
            "previous_response_id: that response is still being made", param="previous_response_id"
        )
    return [*entry.input, *found["output"]]


def _entry(
    body: ResponsesBody, store: ResponseStore, entry: Entry, items: list[Item]
) -> Entry | None:
    """Where the response will be kept; None if it will not be.

    Raises:
        InvalidRequest: it must be, and cannot.
    """
    if body.store is False:
        return None
    if store.enabled:
        entry.before = encode_json(items)
        if store.takes(2 * len(entry.before)):
            return entry
        reason = "the conversation is too long to be kept; leave it out or set it to false"
    else:
        reason = "this server keeps no responses; its option --response-store-entries makes it"
    for name, wanted in (("background", body.background), ("store", body.store)):
        if wanted:
            _wrong(name, reason)
    return None


def _run(
    turn: _Turn, deltas: AsyncGenerator[Delta, None], store: ResponseStore, *, streams: bool
) -> Run:
    assert turn.entry is not None, "a response in the background is kept"
    return Run(turn.reply, deltas, store, turn.entry, turn.own, streams=streams)


async def _renamed(deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """``deltas``, whose errors name fields as they are called here."""
    with response_names():
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta


async def _events(
    turn: _Turn, deltas: AsyncGenerator[Delta, None], store: ResponseStore
) -> AsyncGenerator[bytes, None]:
    """The events of one delta go out together; before the last ones the response is kept."""
    async with aclosing(deltas):
        async for delta in deltas:
            data = b"".join(map(named, turn.reply.events(delta)))
            if turn.reply.over:
                _keep(turn, store)
            if data:
                yield data


def _keep(turn: _Turn, store: ResponseStore) -> None:
    if turn.entry is not None:
        store.end(turn.entry, turn.reply.response, turn.own)


def _failed(reply: ResponseReply, error: RequestError) -> bytes:
    return b"".join(map(named, reply.failed(error)))


def _followed(run: Run, after: int) -> EventStream:
    return EventStream(run.follow(after), done=b"")


def _entry_of(request: Request) -> Entry:
    """The caller's own response that the path names.

    Raises:
        NotFound: there is none.
    """
    id = request.path_params["id"]
    entry = state_of(request).responses.find(owner_of(request), id)
    if entry is None:
        raise NotFound(
            f"there is no response {id[:100]!r}; responses are kept for a while, in memory",
            param="id",
            code="response_not_found",
        )
    return entry


def _refuse_includes(request: Request) -> None:
    for name in ("include", "include[]", "include_obfuscation"):
        if request.query_params.get(name, "false") != "false":
            _wrong(name, "is not supported here; include is a field of the request that makes it")


def _choice(request: Request, name: str, allowed: tuple[str, ...]) -> str:
    given = request.query_params.get(name, allowed[0])
    if given not in allowed:
        _wrong(name, f"got {given!r:.60}; allowed: {', '.join(allowed)}")
    return given


def _number(request: Request, name: str, default: int, bounds: tuple[int, int]) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    low, high = bounds
    if not re.fullmatch("[0-9]{1,16}", given) or not low <= int(given) <= high:
        _wrong(name, f"got {given!r:.60}; must be an integer from {low} to {high}")
    return int(given)


def _wrong(name: str, reason: str) -> NoReturn:
    raise InvalidRequest(f"{name}: {reason}", param=name)
