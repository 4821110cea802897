"""What a call's output must look like, as programs say it: ``dtype``, ``regex``, ``json_schema``.

A form is the grammar that goes to the server, and what makes the variable's value of the text.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tupelo.errors import ProgramError
from tupelo.lang.options import Sampling
from tupelo.lang.schema import build, is_type, schema_of

_END = "[ \\n,;:!?]?"
"""One character that a number may end with: a model seldom ends its turn right behind a number, and
could only write more digits else. It does not join the text."""

_DIGITS = "[0-9]{1,18}"

# The space is the model's to write: most vocabularies have words with one before them.
_DTYPES: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: (f" ?[-+]?{_DIGITS}{_END}", int),
    float: (f" ?[-+]?{_DIGITS}(\\.{_DIGITS})?{_END}", float),
    bool: (" ?(True|False)", lambda text: {"True": True, "False": False}[text.strip()]),
    str: (' ?"[^"\\\\\\n]*"', lambda text: text.strip().removeprefix('"').removesuffix('"')),
}
_NAMES = {"int": int, "float": float, "bool": bool, "str": str}
_NUMBERS = (int, float)


@dataclass(frozen=True)
class Form:
    """What is asked of an output.

    Attributes:
        sampling: the grammar, for the server.
        parse: the variable's value of the text; None leaves the text.
        visible: what of the text joins the state's; None means all.
    """

    sampling: Sampling = field(default_factory=dict)
    parse: Callable[[str], Any] | None = None
    visible: Callable[[str], str] | None = None


def form_of(dtype: Any = None, regex: str | None = None, json_schema: Any = None) -> Form:
    """The one form that a call asks for.

    Raises:
        ProgramError: several, or one that is wrong.
    """
    named = {"dtype": dtype, "regex": regex, "json_schema": json_schema}
    asked = [name for name, value in named.items() if value is not None]
    if len(asked) > 1:
        raise ProgramError(f"gen() takes one of {' and '.join(asked)}, not several")
    if dtype is not None:
        return _of_dtype(dtype)
    if regex is not None:
        try:
            re.compile(regex)
        except re.error as error:
            raise ProgramError(f"gen(regex={regex!r:.80}): {error}") from None
        return Form({"regex": regex})
    if json_schema is not None:
        return _of_schema(json_schema)
    return Form()


def _of_dtype(dtype: Any) -> Form:
    kind: Any = _NAMES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if kind not in _DTYPES:
        raise ProgramError(f"gen(dtype={dtype!r}): must be int, float, bool or str")
    pattern, convert = _DTYPES[kind]

    def visible(text: str) -> str:
        return text.rstrip(" \n,;:!?") if kind in _NUMBERS else text

    def parse(text: str) -> Any:
        try:
            return convert(visible(text))
        except (ValueError, KeyError):
            raise ProgramError(
                f"the model's output {text!r:.80} is no {kind.__name__}; max_tokens may have cut it"
            ) from None

    return Form({"regex": pattern}, parse, visible)


def _of_schema(given: Any) -> Form:
    """A schema as text or mapping leaves the text; a type makes its value."""
    if isinstance(given, str):
        try:
            json.loads(given)
        except ValueError as error:
            raise ProgramError(f"gen(json_schema=…): is no JSON: {error}") from None
        return Form({"json_schema": given})
    if not is_type(given):
        return Form({"json_schema": json.dumps(given)})

    def parse(text: str) -> Any:
        try:
            return build(given, json.loads(text))
        except ValueError as error:  # pydantic's error is one, too
            raise ProgramError(
                f"the model's output {text!r:.80} is no {getattr(given, '__name__', given)}: "
                f"{error}; max_tokens may have cut it"
            ) from error

    return Form({"json_schema": json.dumps(schema_of(given))}, parse)
