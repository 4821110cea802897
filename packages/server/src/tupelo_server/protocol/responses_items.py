"""Items of a response's conversation: checked, with ids, and as the messages of a chat.

An item that has been checked has every field that the API gives back for it, and nothing else.
"""

import base64
import binascii
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tupelo.errors import InvalidRequest
from tupelo_server.protocol.messages import MAX_NAME

Item = dict[str, Any]
Lookup = Callable[[str], Item | None]
"""The stored item of an id; None if there is none."""

MAX_REFERENCES = 64
"""Stored items that an input may refer to; each is looked for in all that its sender has stored."""

MAX_ID = 256
PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
}
ROLES = ("user", "assistant", "system", "developer")
_STATUSES = ("in_progress", "completed", "incomplete")
_FIELDS: Mapping[str, frozenset[str]] = {
    "message": frozenset({"role", "content"}),
    "reasoning": frozenset({"summary", "content", "encrypted_content"}),
    "function_call": frozenset({"call_id", "name", "arguments"}),
    "function_call_output": frozenset({"call_id", "output", "name"}),
}
_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
_HINTS = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})
"""What a part of text may have besides, which says nothing to the model."""


def item_id(kind: str) -> str:
    """A new id for an item, which nobody can guess."""
    return f"{PREFIXES[kind]}_{secrets.token_hex(24)}"


def sealed(thoughts: str) -> str:
    """``encrypted_content`` of thoughts: their text in base64, for it is their owner's anyway."""
    return base64.urlsafe_b64encode(thoughts.encode()).decode()


def checked_items(given: str | list[dict[str, Any]], stored: Lookup) -> list[Item]:
    """The items of ``input``; a string is what a user says.

    Args:
        stored: finds the items that references name.

    Raises:
        InvalidRequest: an item, a role, a part or a field that this server does not take, or a
            reference to nothing.
    """
    if isinstance(given, str):
        return [_message("input", {"role": "user", "content": given})]
    items, references = [], 0
    for number, item in enumerate(given):
        place = f"input[{number}]"
        found = {name: value for name, value in item.items() if value is not None}
        kind = found.pop("type", None) or ("message" if "role" in found else "item_reference")
        if kind == "item_reference":
            references += 1
            if references > MAX_REFERENCES:
                raise _wrong(place, f"more than {MAX_REFERENCES} references; send the items")
            items.append(_referred(place, found, stored))
        elif isinstance(kind, str) and kind in PREFIXES:
            items.append(_checked(place, kind, found))
        else:
            raise _wrong(
                f"{place}.type",
                f"{kind!r:.60} is not supported by this server; allowed: "
                f"{', '.join((*PREFIXES, 'item_reference'))}",
            )
    return items


def check_calls(before: Iterable[Item], items: Iterable[Item]) -> None:
    """Refuse results of calls that nobody made.

    Args:
        before: the conversation so far. items: the input.

    Raises:
        InvalidRequest: it has one.
    """
    known = {item["call_id"] for item in before if item["type"] == "function_call"}
    for number, item in enumerate(items):
        if item["type"] == "function_call":
            known.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in known:
            raise _wrong(f"input[{number}].call_id", "no function_call with this id comes before")


def messages_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The conversation as a chat has it: what one reply said, thought and called is one message."""
    messages: list[dict[str, Any]] = []
    turn: dict[str, Any] | None = None
    for item in items:
        if item["type"] == "function_call_output":
            turn = None
            messages.append(_result(item))
        elif item["type"] == "message" and item["role"] != "assistant":
            turn = None
            messages.append({"role": item["role"], "content": _texts(item["content"])})
        else:
            said = turn is not None and turn["content"] and "tool_calls" not in turn
            if turn is None or (item["type"] == "message" and said):
                turn = {"role": "assistant", "content": ""}
                messages.append(turn)
            _add(turn, item)
    return messages


def _add(turn: dict[str, Any], item: Item) -> None:
    """Let a turn of the assistant grow by an item."""
    match item["type"]:
        case "message":
            turn["content"] += "".join(part[_PARTS[part["type"]]] for part in item["content"])
        case "reasoning":
            thoughts = "".join(part["text"] for part in item["content"] or item["summary"])
            turn["reasoning_content"] = turn.get("reasoning_content", "") + thoughts
        case _:
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            turn.setdefault("tool_calls", []).append(call)


def _result(item: Item) -> dict[str, Any]:
    message = {"role": "tool", "tool_call_id": item["call_id"]}
    if "name" in item:
        message["name"] = item["name"]
    output = item["output"]
    return {**message, "content": output if isinstance(output, str) else _texts(output)}


def _texts(parts: list[Item]) -> str | list[dict[str, Any]]:
    if len(parts) == 1:
        text: str = parts[0]["text"]
        return text
    return [{"type": "text", "text": part["text"]} for part in parts]


def _referred(place: str, item: Item, stored: Lookup) -> Item:
    if set(item) != {"id"}:
        raise _wrong(place, "must be an object with a type, with a role, or with an id alone")
    found = stored(_string(place, item, "id"))
    if found is None:
        raise _wrong(f"{place}.id", "there is no stored item with this id")
    return found


def _checked(place: str, kind: str, item: Item) -> Item:
    unknown = set(item) - _FIELDS[kind] - {"id", "status"}
    asking = sorted(name for name in unknown if item[name])
    if asking:
        raise _wrong(f"{place}.{asking[0]:.60}", "is not supported by this server")
    if item.get("status", "completed") not in _STATUSES:
        raise _wrong(f"{place}.status", f"allowed: {', '.join(_STATUSES)}")
    if not 0 < len(_string(place, item, "id", "x")) <= MAX_ID:
        raise _wrong(f"{place}.id", f"must have 1 to {MAX_ID} characters")
    match kind:
        case "message":
            return _message(place, item)
        case "reasoning":
            return _reasoning(place, item)
        case "function_call":
            name = _string(place, item, "name")
            if not 0 < len(name) <= MAX_NAME:
                raise _wrong(f"{place}.name", f"must have 1 to {MAX_NAME} characters")
            fields: Item = {"name": name, "arguments": _string(place, item, "arguments")}
        case _:
            fields = {"output": _output(f"{place}.output", item.get("output"))}
            if "name" in item:
                fields["name"] = _string(place, item, "name")
    return {**_head(kind, item), "call_id": _string(place, item, "call_id"), **fields}


def _head(kind: str, item: Item) -> Item:
    status = item.get("status", "completed")
    return {"id": item.get("id") or item_id(kind), "type": kind, "status": status}


def _message(place: str, item: Item) -> Item:
    role = item.get("role")
    if role not in ROLES:
        raise _wrong(f"{place}.role", f"got {role!r:.60}; allowed: {', '.join(ROLES)}")
    own = role == "assistant"
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "output_text" if own else "input_text", "text": content}]
    allowed = tuple(_PARTS) if own else ("input_text",)
    parts = _parts(f"{place}.content", content, allowed)
    return {**_head("message", item), "role": role, "content": parts}


def _reasoning(place: str, item: Item) -> Item:
    summary = _parts(f"{place}.summary", item.get("summary", []), ("summary_text",))
    content = _parts(f"{place}.content", item.get("content", []), ("reasoning_text",))
    if "encrypted_content" in item and not content:
        given = _string(place, item, "encrypted_content")
        try:
            thoughts = base64.b64decode(given, altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            raise _wrong(f"{place}.encrypted_content", "was not made by this server") from None
        content = [{"type": "reasoning_text", "text": thoughts}]
    return {**_head("reasoning", item), "summary": summary, "content": content}


def _output(place: str, output: Any) -> str | list[Item]:
    return output if isinstance(output, str) else _parts(place, output, ("input_text",))


def _parts(place: str, parts: Any, allowed: tuple[str, ...]) -> list[Item]:
    if not isinstance(parts, list):
        raise _wrong(place, "must be a list of parts, or a string where the API takes one")
    return [_part(f"{place}[{number}]", part, allowed) for number, part in enumerate(parts)]


def _part(place: str, part: Any, allowed: tuple[str, ...]) -> Item:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in allowed:
        raise _wrong(
            f"{place}.type",
            f"{kind!r:.60} is not supported by this server; allowed: {', '.join(allowed)}",
        )
    field = _PARTS.get(kind, "text")
    asking = sorted(n for n in set(part) - _HINTS - {"type", field} if part[n] is not None)
    if asking:
        raise _wrong(f"{place}.{asking[0]:.60}", "is not supported by this server")
    clean = {"type": kind, field: _string(place, part, field)}
    return {**clean, "annotations": []} if kind == "output_text" else clean


def _string(place: str, item: Item, name: str, default: str | None = None) -> str:
    value = item.get(name, default)
    if not isinstance(value, str):
        raise _wrong(f"{place}.{name}", "must be a string")
    return value


def _wrong(place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {reason}", param=place)
