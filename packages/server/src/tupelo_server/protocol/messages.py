"""The conversation of a chat request, checked and in the form that chat templates take."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tupelo.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant", "tool")
_FIELDS = frozenset({"role", "content", "name", "reasoning_content"})
_OWN_FIELDS: Mapping[str, frozenset[str]] = {
    "assistant": frozenset({"tool_calls"}),
    "tool": frozenset({"tool_call_id"}),
}
_NULLS = frozenset(
    {"refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id"}
)
MAX_NAME = 256
_decode_json = msgspec.json.Decoder().decode


def checked_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation without nulls, the arguments of its tool calls as objects.

    Raises:
        InvalidRequest: a role, a field or a part that this server does not take.
    """
    return [_message(f"messages[{number}]", message) for number, message in enumerate(messages)]


def _message(place: str, message: dict[str, Any]) -> dict[str, Any]:
    clean = {name: value for name, value in message.items() if value is not None}
    role = clean.get("role")
    if role not in ROLES:
        raise _wrong(f"{place}.role", f"got {role!r:.60}; allowed: {', '.join(ROLES)}")
    allowed = _FIELDS | _OWN_FIELDS.get(role, frozenset())
    for name in clean:
        if name not in allowed and not (name in _NULLS and not clean[name]):
            raise InvalidRequest(
                f"{place}.{name:.60} is not supported by this server", param=f"{place}.{name:.60}"
            )
    kept = {name: value for name, value in clean.items() if name in allowed}
    if role == "assistant" and kept.get("tool_calls"):
        kept["tool_calls"] = _tool_calls(f"{place}.tool_calls", kept["tool_calls"])
        kept.setdefault("content", "")
    else:
        kept.pop("tool_calls", None)
    _check_content(f"{place}.content", kept.get("content"))
    if role == "tool" and not isinstance(kept.get("tool_call_id"), str):
        raise _wrong(f"{place}.tool_call_id", "a tool's message needs the id of the call")
    for name in ("name", "reasoning_content"):
        if not isinstance(kept.get(name, ""), str):
            raise _wrong(f"{place}.{name}", "must be a string")
    return kept


def _check_content(place: str, content: Any) -> None:
    if isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(f"{place}[{number}]", part)
    elif not isinstance(content, str):
        raise _wrong(place, "must be a string or a list of text parts")


def _check_part(place: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind is None:
        raise _wrong(place, "must be an object with a type")
    if kind != "text":
        raise _wrong(
            f"{place}.type", f"{kind!r:.60} is not supported by this server; allowed: text"
        )
    if not isinstance(part.get("text"), str):
        raise _wrong(f"{place}.text", "must be a string")


def _tool_calls(place: str, calls: Any) -> list[dict[str, Any]]:
    """Calls of earlier turns; arguments that are JSON objects are handed over as such."""
    if not isinstance(calls, list):
        raise _wrong(place, "must be a list")
    return [_tool_call(f"{place}[{number}]", call) for number, call in enumerate(calls)]


def _tool_call(place: str, call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise _wrong(place, "must be an object")
    if call.get("type", "function") != "function":
        raise _wrong(f"{place}.type", f"got {call['type']!r:.60}; allowed: function")
    function = call.get("function")
    if not isinstance(function, dict):
        raise _wrong(f"{place}.function", "must be an object with name and arguments")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise _wrong(f"{place}.function.name", f"must be a string of 1 to {MAX_NAME} characters")
    call_id = call.get("id")
    if call_id is not None and not isinstance(call_id, str):
        raise _wrong(f"{place}.id", "must be a string")
    if isinstance(arguments, str):
        arguments = _object_of(arguments)
    elif not isinstance(arguments, dict):
        raise _wrong(f"{place}.function.arguments", "must be a string that holds JSON")
    clean = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return clean if call_id is None else {"id": call_id, **clean}


def _object_of(arguments: str) -> Any:
    """The object that the text holds, no text meaning none; the text itself if it is no object."""
    if not arguments.strip():
        return {}
    try:
        value = _decode_json(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _wrong(place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {reason}", param=place)
