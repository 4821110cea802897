"""Typed reading of untrusted JSON: a wrong type or a nonsense number is an error naming its field.

Owns the size limit of JSON files. Imports only ``errors``.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tupelo.errors import CheckpointError

MAX_JSON_BYTES: Final = 32 << 20  # an index of 100,000 tensors has 12 MB; objects take 20 times
MAX_INT: Final = 2**31 - 1  # no count or id of a real model comes near it

_SHOWN_CHARS = 80


def read_json(path: Path, *, inside: str = "") -> dict[str, Any]:
    """The JSON object in ``path``; with ``inside`` an object of what is there, under this name.

    Raises:
        CheckpointError: absent, no regular file, larger than ``MAX_JSON_BYTES``, or no JSON object.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing or is no regular file")
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {size} bytes; at most {MAX_JSON_BYTES} are read")
        data = path.read_bytes()
        if inside:
            data = b'{"%s":%s}' % (inside.encode(), data)
        return parse_json_object(data, str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    """Decode ``data`` as a JSON object; ``where`` names its origin in errors.

    Raises:
        CheckpointError: not UTF-8, not JSON, nested too deeply, or not an object.
    """
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must hold a JSON object, got {type(value).__name__}")
    return value


def shown(value: object) -> str:
    """``value`` for an error message, cut so that a hostile file cannot flood the log."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


class Fields:
    """A JSON object read field by field; null counts as absent.

    Attributes:
        values: the object.
        where: what it is called in errors, e.g. ``config.json``.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def error(self, name: str, wanted: str) -> CheckpointError:
        """The error that says which field, what it must be and what it is."""
        if name not in self:
            return CheckpointError(f"{self.where}: {name} is missing; it must be {wanted}")
        got = shown(repr(self.values[name]))
        return CheckpointError(f"{self.where}: {name} must be {wanted}, got {got}")

    def integer(
        self, name: str, default: int | None = None, *, low: int = 1, high: int = MAX_INT
    ) -> int:
        """A whole number of ``low … high``; required when ``default`` is None."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise self.error(name, f"a whole number from {low} to {high}")
        return value

    def optional_integer(self, name: str, *, low: int = 1, high: int = MAX_INT) -> int | None:
        """As ``integer``, or None when the field is absent."""
        return self.integer(name, low=low, high=high) if name in self else None

    def number(
        self, name: str, default: float | None = None, *, low: float = 0.0, high: float = math.inf
    ) -> float:
        """A finite number with ``low <= value <= high``; required when ``default`` is None."""
        value: Any = self.values.get(name)
        if value is None and default is not None:
            return default
        if not _is_number(value) or not low <= value <= high:
            upper = "" if high == math.inf else f" and at most {high:g}"
            raise self.error(name, f"a finite number of at least {low:g}{upper}")
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above 0; required when ``default`` is None."""
        value = self.number(name, default)
        if value <= 0:
            raise self.error(name, "a finite number above 0")
        return value

    def optional_positive(self, name: str) -> float | None:
        """As ``positive``, or None when the field is absent."""
        return self.positive(name) if name in self else None

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string; required when ``default`` is None."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        value = self.values.get(name, ())
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise self.error(name, "a list of strings")
        return tuple(value)

    def positives(self, name: str, count: int) -> tuple[float, ...]:
        """A list of exactly ``count`` finite numbers above 0."""
        value = self.values.get(name)
        if (
            not isinstance(value, list | tuple)
            or len(value) != count
            or not all(_is_number(v) and v > 0 for v in value)
        ):
            raise self.error(name, f"a list of {count} finite numbers above 0")
        return tuple(float(v) for v in value)

    def token_id(self, name: str) -> int | None:
        """A token id or None; old configurations write -1 for "none"."""
        value = self.optional_integer(name, low=-1)
        return None if value == -1 else value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them, without duplicates; empty when absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        ids = value if isinstance(value, list | tuple) else [value]
        if not all(type(i) is int and -1 <= i <= MAX_INT for i in ids):
            raise self.error(name, "a token id or a list of token ids")
        return tuple(dict.fromkeys(i for i in ids if i >= 0))

    def section(self, name: str) -> "Fields":
        """The nested object ``name``; an empty one when absent."""
        value = self.values.get(name)
        if value is None:
            return Fields({}, f"{self.where}: {name}")
        if not isinstance(value, Mapping):
            raise self.error(name, "an object")
        return Fields(value, f"{self.where}: {name}")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False
