"""What the request's tools say about their parameters, and values made to fit it.

Formats that write parameters as markup do not say whether ``5`` is a number or a string: the tool's
schema does. A value that fits none of its types stays a string, so nothing is lost.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tupelo.text.tools.dialects import PythonReader
from tupelo.text.tools.reader import ValueReader, quoted
from tupelo.text.tools.source import MalformedError, Source, Step

T = TypeVar("T")

_MAX_DEPTH = 16
_WRAPPERS = frozenset({"arguments", "parameters", "properties", "args", "input"})
_NAMES = {
    **{"str": "string", "text": "string", "int": "integer", "float": "number", "double": "number"},
    **{"bool": "boolean", "dict": "object", "list": "array", "tuple": "array", "none": "null"},
}
_INTEGER = re.compile(r"-?[0-9]+(\.0*)?([eE]\+?[0-9]+)?")
_TYPES = frozenset({"string", "integer", "number", "boolean", "object", "array", "null"})
STRING = frozenset({"string"})


class ToolSchemas:
    """The parameters of each tool of a request."""

    def __init__(self, tools: Iterable[Mapping[str, Any]] = ()) -> None:
        """Read descriptions of tools, in OpenAI's form (a function) or a bare function.

        What is not as it should be is taken as unknown; requests are checked elsewhere.
        """
        self._properties: dict[str, Mapping[str, Any] | None] = {}
        for tool in tools:
            function = tool.get("function", tool)
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                continue
            schema = function.get("parameters")
            properties = schema.get("properties", {}) if isinstance(schema, Mapping) else None
            self._properties[function["name"]] = (
                properties if isinstance(properties, Mapping) else None
            )

    def knows(self, tool: str) -> bool:
        """Whether there is such a tool."""
        return tool in self._properties

    def properties(self, tool: str) -> Mapping[str, Any] | None:
        """The schemas of its parameters, None if they are not known."""
        return self._properties.get(tool)

    def parameter(self, tool: str, key: str) -> Any:
        """The schema of a parameter, None if it is not known."""
        return (self._properties.get(tool) or {}).get(key)

    def is_wrapper(self, tool: str, key: str) -> bool:
        """Whether ``key`` is no parameter, but a name that models put all parameters under."""
        properties = self._properties.get(tool)
        return properties is not None and key in _WRAPPERS and key not in properties


def types_of(schema: Any, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows; empty if it does not say."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return frozenset()
    found: set[str] = set()
    named = schema.get("type")
    for name in [named] if isinstance(named, str) else named if isinstance(named, list) else []:
        if isinstance(name, str):
            found.add(_NAMES.get(name.lower(), name.lower()))
    if not found:
        for choice in ("anyOf", "oneOf", "allOf"):
            branches = schema.get(choice)
            for branch in branches if isinstance(branches, Sequence) else ():
                found |= types_of(branch, depth + 1)
    if not found and isinstance(schema.get("enum"), list):
        found = {_type_of(value) for value in schema["enum"]}
    if not found and "properties" in schema:
        found = {"object"}
    if schema.get("nullable") is True and found:
        found.add("null")
    return frozenset(found) if found <= _TYPES else frozenset()


def fitted(text: str, types: frozenset[str]) -> str:
    """The JSON of a value written as plain ``text``, given the types that it may have (empty: any).

    >>> fitted("5", frozenset({"integer"})), fitted("5", STRING), fitted("True", frozenset())
    ('5', '"5"', 'true')
    """
    if types == STRING:
        return quoted(text)
    stripped = text.strip()
    found = _read(stripped, ValueReader)
    if found is None and stripped[:1] in "{[(":
        found = _read(stripped, PythonReader)
    if found is None and "boolean" in types and stripped.lower() in ("true", "false"):
        found = stripped.lower()
    if found is None or (types and not _allowed(found, types)):
        return quoted(text)
    if types and found.startswith('"'):
        return quoted(text)
    return found


def members(found: str) -> dict[str, str] | None:
    """The members of a JSON object, each as JSON; None if ``found`` is no object."""
    return _now(found, _members) if found.startswith("{") else None


def _members(source: Source) -> Step[dict[str, str]]:
    reader = ValueReader(source)
    found: dict[str, str] = {}
    yield from source.expect("{")
    while not (yield from source.accept("}")):
        if found:
            yield from source.expect(",")
            yield from source.space()
        key = yield from reader.key()
        yield from source.space()
        parts: list[str] = []
        yield from reader.value(parts.append)
        found[key] = "".join(parts)
    return found


def _read(text: str, reader: type[ValueReader]) -> str | None:
    """``text`` as JSON, None if it is not one whole value."""
    parts: list[str] = []

    def steps(source: Source) -> Step[str]:
        yield from reader(source).value(parts.append)
        return "".join(parts)

    return _now(text, steps)


def _now(text: str, steps: Callable[[Source], Step[T]]) -> T | None:
    """What ``steps`` make of all of ``text``, None if they do not take it."""
    source = Source()
    source.feed(text)
    source.close()
    running = steps(source)
    try:
        next(running)
    except StopIteration as end:
        found: T = end.value
        return None if source.left else found
    except MalformedError:
        return None
    raise AssertionError("a closed source never waits")


def _allowed(found: str, types: frozenset[str]) -> bool:
    kind = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean"}.get(
        found[0], "null" if found == "null" else "number"
    )
    if kind == "number" and "integer" in types:
        return "number" in types or bool(_INTEGER.fullmatch(found))
    return kind in types


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) else "number"
    return "array" if isinstance(value, list) else "object"
