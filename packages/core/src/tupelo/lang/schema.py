"""Python types as JSON Schemas, and JSON as values of these types.

For ``gen(json_schema=…)`` and for the parameters of tools: plain types, containers, ``Literal``,
enums, dataclasses, typed dicts; and pydantic's models, which know both directions themselves.
"""

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tupelo.errors import ProgramError

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
    inspect.Parameter.empty: {},
}


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a type.

    Raises:
        ProgramError: a type that JSON cannot hold.
    """
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if hasattr(kind, "model_json_schema"):
        return dict(kind.model_json_schema())
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(args)}
    if origin is typing.Annotated:
        return schema_of(args[0])
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(arg) for arg in args]}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _of_dataclass(kind)
    if typing.is_typeddict(kind):
        required = sorted(kind.__required_keys__)
        return _of_fields(get_type_hints(kind), required)
    return _of_container(kind, origin, args)


def build(kind: Any, value: Any) -> Any:
    """A value of a type from parsed JSON that fits its schema.

    Raises:
        ProgramError: it does not fit.
    """
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    origin, args = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return build(args[0], value)
    if origin in (Union, types.UnionType):
        return _build_either(args, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise ProgramError(f"{kind.__name__} wants an object, not {value!r:.60}")
        hints = get_type_hints(kind)
        return kind(**{name: build(hints[name], item) for name, item in value.items()})
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is tuple and isinstance(value, Sequence):
        return tuple(_build_items(args[:1], value))
    if origin in (set, frozenset) and isinstance(value, Sequence):
        return origin(_build_items(args, value))
    if origin in (list, Sequence) and isinstance(value, list):
        return _build_items(args, value)
    if origin in (dict, Mapping) and isinstance(value, dict) and len(args) == 2:
        return {key: build(args[1], item) for key, item in value.items()}
    return value


def is_type(value: object) -> bool:
    """Whether this is a type with a schema of its own, not a schema."""
    return isinstance(value, type) or get_origin(value) is not None


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON Schema of a function's arguments.

    Raises:
        ProgramError: arguments that cannot be given by name, or whose types JSON cannot hold.
    """
    hints = get_type_hints(function)
    fields: dict[str, Any] = {}
    required = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ProgramError(
                f"tool {_name(function)}: the argument {name!r} cannot be given by name"
            )
        fields[name] = hints.get(name, Any)
        if parameter.default is parameter.empty:
            required.append(name)
    return _of_fields(fields, required)


def _of_dataclass(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    fields = [one for one in dataclasses.fields(kind) if one.init]
    missing = dataclasses.MISSING
    required = [
        one.name for one in fields if one.default is missing and one.default_factory is missing
    ]
    return _of_fields({one.name: hints[one.name] for one in fields}, required)


def _of_fields(fields: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: schema_of(kind) for name, kind in fields.items()},
        "required": list(required),
        "additionalProperties": False,
    }


def _of_container(kind: Any, origin: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    base = origin or kind
    if base in (list, set, frozenset, Sequence) or (base is tuple and args[1:] == (...,)):
        found: dict[str, Any] = {"type": "array"}
        if args:
            found["items"] = schema_of(args[0])
        return found
    if base in (dict, Mapping) and (not args or args[0] is str):
        found = {"type": "object"}
        if args:
            found["additionalProperties"] = schema_of(args[1])
        return found
    raise ProgramError(f"{kind!r} has no JSON Schema: use plain types, or a dataclass of them")


def _build_items(args: tuple[Any, ...], value: Sequence[Any]) -> list[Any]:
    return [build(args[0], item) if args else item for item in value]


def _build_either(args: tuple[Any, ...], value: Any) -> Any:
    """The first of several types that the value fits by its kind."""
    if value is None and type(None) in args:
        return None
    for kind in args:
        if isinstance(kind, type) and kind in _PLAIN and isinstance(value, kind):
            return value
    structured = [kind for kind in args if kind not in _PLAIN]
    return build(structured[0], value) if structured else value


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", repr(function))
