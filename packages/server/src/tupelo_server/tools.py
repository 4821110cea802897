"""The tools of a request, checked: what the model is offered, and what it must call."""

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from tupelo.errors import InvalidRequest

MAX_TOOLS = 1024
_NAME = re.compile(r"[A-Za-z0-9_.:/\-]{1,256}")
_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """What a request says of tools.

    Attributes:
        tools: their descriptions, as the chat template takes them; none means no calls.
        forced: names of which at least one must be called; none lets the model choose.
        max_calls: at most so many calls; None for any number.
    """

    tools: tuple[dict[str, Any], ...] = ()
    forced: tuple[str, ...] = ()
    max_calls: int | None = None

    @property
    def functions(self) -> list[dict[str, Any]]:
        """What the tools are: name, parameters, and so on."""
        return [tool["function"] for tool in self.tools]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tools."""
        return tuple(function["name"] for function in self.functions)

    @property
    def strict(self) -> bool:
        """Whether calls of some tool must fit its schema."""
        return any(function.get("strict") for function in self.functions)


def tool_use(tools: list[dict[str, Any]] | None, choice: Any, parallel: bool) -> ToolUse:
    """What ``tools``, ``tool_choice`` and ``parallel_tool_calls`` ask for.

    Raises:
        InvalidRequest: a tool or a choice that is wrong, or a choice among no tools.
    """
    checked = tuple(_tool(f"tools[{i}]", tool) for i, tool in enumerate(tools or ()))
    if len(checked) > MAX_TOOLS:
        raise InvalidRequest(f"tools: got {len(checked)}; at most {MAX_TOOLS}", param="tools")
    names = [tool["function"]["name"] for tool in checked]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"tools: two of them are named {twice!r:.80}", param="tools")
    max_calls = None if parallel else 1
    match choice:
        case None | "auto":
            return ToolUse(tools=checked, max_calls=max_calls)
        case "none":
            return ToolUse()
        case "required" if names:
            return ToolUse(tools=checked, forced=tuple(names), max_calls=max_calls)
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return ToolUse(tools=checked, forced=(name,), max_calls=1)
        case "required" | {"type": "function", "function": {"name": str()}}:
            raise InvalidRequest(
                "tool_choice: names no tool of this request; tools are "
                f"{', '.join(names[:20]) or 'not given'}",
                param="tool_choice",
            )
    raise InvalidRequest(
        "tool_choice: must be auto, none, required, or name a function as "
        '{"type": "function", "function": {"name": …}}',
        param="tool_choice",
    )


def call_id(style: str, given: str | None) -> str:
    """The id of a call, in its family's style: the model's own, or one that nobody else has."""
    if given:
        return given
    if style == "mistral":
        return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"


def arguments_object(arguments: str) -> dict[str, Any]:
    """The arguments of a call. What is no object, because it was cut off or the model wrote
    something else, is kept as text under one name."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"invalid_json": arguments}


def _tool(place: str, tool: Any) -> dict[str, Any]:
    """A tool as the template takes it, its parameters never absent."""
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        raise InvalidRequest(
            f'{place}: must be {{"type": "function", "function": {{…}}}}', param=place
        )
    function = tool.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest(f"{place}.function: must be an object", param=f"{place}.function")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{place}.function.name: must have 1 to 256 letters, digits, or _ . : / -",
            param=f"{place}.function.name",
        )
    for key, kind in (("description", str), ("parameters", dict), ("strict", bool)):
        if not isinstance(function.get(key), kind | None):
            raise InvalidRequest(
                f"{place}.function.{key}: got a value of the wrong type",
                param=f"{place}.function.{key}",
            )
    clean = {key: value for key, value in function.items() if value is not None}
    clean["parameters"] = {"type": "object", "properties": {}, **clean.get("parameters", {})}
    return {**tool, "type": "function", "function": clean}
