"""What a request says about the form of its output, under all of its names: at most one grammar."""

from collections.abc import Mapping
from typing import Any

from tupelo.engine.grammars import take_grammar
from tupelo.errors import InvalidRequest
from tupelo.request import Grammar, check_bool
from tupelo_server.wire import encode_json

GRAMMAR_FIELDS = ("json_schema", "regex", "ebnf", "structural_tag", "choice")
"""Fields that each are a kind of ``Grammar``. Null and empty text ask for nothing."""

_FORMATS = ("text", "json_object", "json_schema", "structural_tag")
_FORMAT = "response_format"


def grammar_of(fields: Mapping[str, Any], response_format: Any = None) -> Grammar | None:
    """The one grammar that is asked for.

    Args:
        fields: by name, some of ``GRAMMAR_FIELDS``; see ``take_grammar``.
        response_format: OpenAI's field of that name.

    Raises:
        InvalidRequest: several, or one that is not put as it should be. Whether a grammar can be
            compiled is found later.
    """
    found = take_grammar(dict(fields))
    wrapped = None if response_format is None else _of_format(response_format)
    if found is not None and wrapped is not None:
        raise InvalidRequest(
            f"{found.kind} and {_FORMAT}: at most one of them may be given", param=_FORMAT
        )
    chosen = found or wrapped
    return None if chosen is None else chosen.checked()


def _of_format(value: Any) -> Grammar | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in _FORMATS:
        raise InvalidRequest(
            f"{_FORMAT}.type: got {kind!r:.60}; allowed: {', '.join(_FORMATS)}",
            param=f"{_FORMAT}.type",
        )
    if kind == "structural_tag":
        return Grammar(kind=kind, text=_text(value), param=_FORMAT)
    known = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    _refuse_others(_FORMAT, value, known)
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar(kind=kind, param=_FORMAT)
    return _of_schema(value.get("json_schema"))


def _of_schema(given: Any) -> Grammar:
    """OpenAI's wrapping of a schema: its name and description say nothing about the output."""
    place = f"{_FORMAT}.json_schema"
    if not isinstance(given, dict):
        raise InvalidRequest(f"{place}: must be an object", param=place)
    _refuse_others(place, given, {"name", "description", "schema", "schema_", "strict"})
    schema = given.get("schema", given.get("schema_"))
    if not isinstance(schema, dict | bool):
        raise InvalidRequest(f"{place}.schema: must be a JSON Schema", param=f"{place}.schema")
    strict = given.get("strict")
    return Grammar(
        kind="json_schema",
        text=_text(schema),
        strict=strict is None or check_bool(f"{place}.strict", strict),
        param=_FORMAT,
    )


def _refuse_others(place: str, given: Mapping[str, Any], known: set[str]) -> None:
    for name, value in given.items():
        if name not in known and value is not None:
            raise InvalidRequest(f"{place}.{name:.60} is unknown", param=f"{place}.{name:.60}")


def _text(value: Any) -> str:
    return encode_json(value).decode()
