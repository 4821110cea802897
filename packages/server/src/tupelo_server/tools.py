"""The tools of a request: checked, offered to the model, and forced where the client wants so.

A forced call is written under a grammar, as a JSON list of calls, whatever the model's own format
is: so its arguments are valid by construction.
"""

import json
import re
import secrets
from dataclasses import dataclass, replace
from typing import Any

from tupelo.errors import InvalidRequest
from tupelo.request import Grammar
from tupelo.text.tools.family import ToolFamily
from tupelo.text.tools.json_calls import JsonFormat

MAX_TOOLS = 1024
MAX_FORCED_CALLS = 16
"""A forced list ends here at last, for small models do not know when to stop."""

_SCHEMAS = ("json_schema", "json_object")
FORCED = ToolFamily("forced", JsonFormat(opens=(), bare=("[",)))
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

    def lists_calls(self, own: Grammar | None) -> bool:
        """Whether calls are written as a JSON list, in the format ``FORCED``.

        Args:
            own: the grammar that the client gives. A schema says what text is, and calls stand
                beside it; another kind says what the whole output is, calls included.
        """
        return bool(self.forced or (self.tools and own is not None and own.kind in _SCHEMAS))

    def grammar(self, own: Grammar | None, *, after: tuple[int, ...] = ()) -> Grammar | None:
        """What the output must look like: a call of the forced tools; or text as ``own`` wants it,
        or calls. None for anything. ``after``: see ``Grammar``.

        Raises:
            InvalidRequest: a schema that is none.
        """
        if not self.lists_calls(own):
            return own and replace(own, after=after)
        functions = [tool["function"] for tool in self.tools]
        if self.forced:
            functions = [function for function in functions if function["name"] in self.forced]
            own = None
        strict = any(function.get("strict") for function in functions)
        try:
            text = json.dumps(self._schema(functions, own))
        except RecursionError:
            raise InvalidRequest("tools: nested too deeply", param="tools") from None
        param = "tools" if own is None else own.param or own.kind
        strict = strict or (own is not None and own.strict)
        return Grammar(kind="json_schema", text=text, strict=strict, param=param, after=after)

    def _schema(self, functions: list[dict[str, Any]], own: Grammar | None) -> dict[str, Any]:
        """A list of calls, or what the client's own schema says."""
        parts = {f"tool{n}": function["parameters"] for n, function in enumerate(functions)}
        calls = {
            "type": "array",
            "minItems": 1,
            "maxItems": self.max_calls or MAX_FORCED_CALLS,
            "items": {"anyOf": [_call_schema(f"tool{n}", f) for n, f in enumerate(functions)]},
        }
        if own is not None:
            parts["text"] = _own_schema(own)
            calls = {"anyOf": [{"$ref": "#/$defs/text"}, calls]}
        return {**calls, "$defs": {name: _rooted(name, part) for name, part in parts.items()}}


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


def _call_schema(part: str, function: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "parameters": {"$ref": f"#/$defs/{part}"},
        },
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _own_schema(own: Grammar) -> Any:
    """The schema of the text.

    Raises:
        InvalidRequest: it is none.
    """
    if own.kind == "json_object":
        return {"type": "object"}
    name = own.param or own.kind
    try:
        return json.loads(own.text)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{name}: is no JSON Schema", param=name) from None


def _rooted(name: str, schema: Any) -> Any:
    """A schema at its place in a larger one: what it refers to lies deeper there."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(item) for item in value]
        if not isinstance(value, dict):
            return value
        found = {key: moved(item) for key, item in value.items()}
        reference = found.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            found["$ref"] = f"#/$defs/{name}{reference[1:]}"
        return found

    return moved(schema)
