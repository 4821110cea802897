"""JSON in and out: the one place where a request body is parsed, and replies are written."""

import asyncio
import re
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from tupelo_server.errors import BodyTimeout, ClientGone, SchemaError

M = TypeVar("M", bound=BaseModel)

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode
_MAX_MESSAGE = 300
MAX_COMMAS = 1 << 20
"""A body with more of them holds more values, or a longer text, than any model could read. Some
bytes of JSON become a hundred times as many in memory, and seconds on the event loop."""


class JsonResponse(Response):
    """A reply in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode_json(content)


async def read_object(request: Request, timeout_s: float) -> dict[str, Any]:
    """The body as a JSON object, whatever content type it claims; an empty body is ``{}``.

    Raises:
        SchemaError: not UTF-8, not JSON, nested too deeply, too many values, or no object.
        BodyTooLarge: raised by the guard while the body is read.
        BodyTimeout: not complete within ``timeout_s``.
        ClientGone: the client left before the end.
    """
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read(request)
    except TimeoutError:
        raise BodyTimeout(f"the request body was not complete after {timeout_s:g} s") from None
    if not body:
        return {}
    if body.count(b",") > MAX_COMMAS:
        raise SchemaError(f"the request body has more than {MAX_COMMAS} values")
    try:
        value = decode_json(body)
    except RecursionError:
        raise SchemaError("the request body is nested too deeply") from None
    except UnicodeDecodeError:
        raise SchemaError("the request body is not UTF-8") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise SchemaError(f"the request body is no valid JSON: {_shorten(str(error))}") from None
    if not isinstance(value, dict):
        raise SchemaError("the request body must be a JSON object")
    return value


def validate(model: type[M], values: dict[str, Any]) -> M:
    """``values`` as a ``model``, one that forbids unknown fields.

    Raises:
        SchemaError: the first thing that is wrong, with the path of its field in ``param``.
    """
    known = model.model_fields
    unknown = next((name for name in values if name not in known), None)
    if unknown is not None:  # pydantic would list them all, of which there may be a million
        raise SchemaError(f"unknown field {_shorten(unknown)!r}", param=_shorten(unknown))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    first = next((e for e in found if e["type"] == "too_long"), found[0])
    param = _path_of(first["loc"])
    if first["type"] == "extra_forbidden":
        raise SchemaError(f"unknown field {_shorten(param)!r}", param=_shorten(param))
    if first["type"] == "missing":
        raise SchemaError(f"the field {param!r} is required", param=param)
    raise SchemaError(f"{_shorten(param)}: {_shorten(first['msg'])}", param=_shorten(param))


def stop_at_first_error(schema: Any) -> Any:
    """A pydantic-core schema whose lists stop at their first bad item; changed in place.

    By itself pydantic collects an error, of a thousand bytes, for every item of every list, and
    nobody reads but the first. Mappings cannot be told the same: let them be ``dict[str, Any]``.
    """
    if isinstance(schema, dict):
        if schema.get("type") in ("list", "set", "frozenset", "tuple"):
            schema["fail_fast"] = True
        for part in schema.values():
            stop_at_first_error(part)
    elif isinstance(schema, list):
        for part in schema:
            stop_at_first_error(part)
    return schema


async def _read(request: Request) -> bytearray:
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def _path_of(place: tuple[int | str, ...]) -> str:
    """A pydantic location as clients write it: ``messages[0].content``.

    The names of a union's members, which pydantic adds at the end, are left out.
    """
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.match(r"^(str|int|float|bool|list|dict|constrained|function|tagged)\b", part):
            break
        else:
            text += f".{part}" if text else part
    return text


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 3] + "..."
