"""JSON that clients send as grammars: parsed within bounds, and refused for what nobody reads."""

import json
from typing import Any

from tupelo.grammar.backend import GrammarError


def parse_json(text: str) -> Any:
    """A JSON value of bounded depth.

    Raises:
        GrammarError: no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise GrammarError("is nested too deeply") from None
    except ValueError as error:
        raise GrammarError(f"is no JSON: {error}") from None


def read_schema(text: str) -> Any:
    """A JSON Schema: an object or a boolean.

    Raises:
        GrammarError: no JSON, no schema, or nested too deeply.
    """
    schema = parse_json(text)
    if not isinstance(schema, dict | bool):
        raise GrammarError("a JSON Schema is an object or a boolean")
    return schema


def read_choices(text: str) -> list[str]:
    """A list of texts, each once.

    Raises:
        GrammarError: no such list, or an empty one.
    """
    choices = parse_json(text)
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise GrammarError("must be a list of strings")
    if not choices:
        raise GrammarError("there is nothing to choose from")
    return list(dict.fromkeys(choices))


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
