"""Ollama's messages as those of a chat body.

Results of tools name a tool, not a call: each is given to the first call of that tool which has no
result yet. Calls without an id get one that every family's template takes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from tupelo.errors import InvalidRequest

_FIELDS = frozenset(
    {"role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"}
)
_ROLES = ("system", "user", "assistant", "tool")


def chat_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages in OpenAI's form; what both have alike is checked there.

    Raises:
        InvalidRequest: a role, a field or a call that this server does not take.
    """
    calls = _Calls()
    return [_message(f"messages[{n}]", message, calls) for n, message in enumerate(messages)]


class _Calls:
    """The calls of a conversation that have no result yet, in their order; each step takes the same
    time, however many there are."""

    def __init__(self) -> None:
        self._number = 0
        self._tools: OrderedDict[str, str] = OrderedDict()
        self._ids: dict[str, OrderedDict[str, None]] = {}

    def new_id(self) -> str:
        """Nine letters and digits, as some families want them."""
        self._number += 1
        return f"call{self._number:05d}"

    def begin(self, tool: str, call_id: str) -> None:
        """A call of ``tool``."""
        self._end(call_id)
        self._tools[call_id] = tool
        self._ids.setdefault(tool, OrderedDict())[call_id] = None

    def answered(self, tool: str | None, call_id: str | None) -> str:
        """The id of the call that a result belongs to."""
        if call_id is None:
            waiting = self._tools if tool is None else self._ids.get(tool)
            call_id = next(iter(waiting)) if waiting else self.new_id()
        self._end(call_id)
        return call_id

    def _end(self, call_id: str) -> None:
        tool = self._tools.pop(call_id, None)
        if tool is not None:
            del self._ids[tool][call_id]


def _message(place: str, message: dict[str, Any], calls: _Calls) -> dict[str, Any]:
    given = {name: value for name, value in message.items() if value is not None}
    unknown = set(given) - _FIELDS
    if unknown:
        raise _wrong(f"{place}.{min(unknown):.60}", "is no field of a message")
    role = given.get("role")
    if role not in _ROLES:
        raise _wrong(f"{place}.role", f"got {role!r:.60}; allowed: {', '.join(_ROLES)}")
    if given.get("images"):
        raise _wrong(f"{place}.images", "is not supported by this server")
    found: dict[str, Any] = {"role": role, "content": given.get("content", "")}
    for name, owner in (("thinking", "assistant"), ("tool_calls", "assistant"), *_OF_RESULTS):
        if given.get(name) and role != owner:
            raise _wrong(f"{place}.{name}", f"belongs to a message of role {owner!r}")
    if given.get("thinking"):
        found["reasoning_content"] = given["thinking"]
    if given.get("tool_calls"):
        found["tool_calls"] = _calls(f"{place}.tool_calls", given["tool_calls"], calls)
    if role == "tool":
        tool = _string(place, given, "tool_name")
        found["tool_call_id"] = calls.answered(tool, _string(place, given, "tool_call_id"))
        if tool is not None:
            found["name"] = tool
    return found


_OF_RESULTS = (("tool_name", "tool"), ("tool_call_id", "tool"))


def _calls(place: str, given: Any, calls: _Calls) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise _wrong(place, "must be a list")
    return [_call(f"{place}[{number}]", call, calls) for number, call in enumerate(given)]


def _call(place: str, call: Any, calls: _Calls) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise _wrong(place, "must be an object with a function")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str):
        raise _wrong(f"{place}.function.name", "must be a string")
    if not isinstance(arguments, dict | None):
        raise _wrong(f"{place}.function.arguments", "must be an object")
    call_id = _string(place, call, "id") or calls.new_id()
    calls.begin(name, call_id)
    return {
        "type": "function",
        "id": call_id,
        "function": {"name": name, "arguments": arguments or {}},
    }


def _string(place: str, values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    if not isinstance(value, str | None):
        raise _wrong(f"{place}.{name}", "must be a string")
    return value or None


def _wrong(place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {reason}", param=place)
