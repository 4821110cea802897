"""``conformance.toml``: the failures that are known, strict both ways.

::

    [[known_failure]]
    id = "ops/linear/float16/long/chosen"
    reason = "accumulates in half precision"
    link = "https://example.org/bugs/17"
    date = 2026-01-31
"""

import datetime
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from tupelo.conformance.case import Result, Status
from tupelo.errors import ConfigError

_FIELDS = {"id": str, "reason": str, "link": str, "date": datetime.date}


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """One failure that is known: the case's id, why it fails, where that is tracked, since when."""

    id: str
    reason: str
    link: str
    date: datetime.date


def read_known(path: Path) -> tuple[KnownFailure, ...]:
    """Read a list of known failures.

    Raises:
        ConfigError: the file is absent or no TOML, an entry lacks a field, or names a case twice.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    entries = document.pop("known_failure", [])
    if document or not isinstance(entries, list):
        raise ConfigError(f"{path}: only [[known_failure]] entries are allowed")
    known = tuple(_read_entry(path, i, entry) for i, entry in enumerate(entries, start=1))
    ids = [k.id for k in known]
    for name in ids:
        if ids.count(name) > 1:
            raise ConfigError(f"{path}: {name} is listed twice")
    return known


def apply_known(results: list[Result], known: tuple[KnownFailure, ...]) -> list[Result]:
    """Turn listed failures into known ones, and listed passes into failures.

    A listed case that did not run, because it was skipped or does not exist, is a failure too: the
    entry is stale.
    """
    listed = {k.id: k for k in known}
    judged = [_judge(r, listed[r.id]) if r.id in listed else r for r in results]
    for name in listed.keys() - {r.id for r in results}:
        message = "listed as a known failure, but the kit has no such case"
        judged.append(Result(name, -1, Status.UNEXPECTED_PASS, message))
    return judged


def _judge(result: Result, entry: KnownFailure) -> Result:
    why = f"{entry.reason} ({entry.link}, {entry.date})"
    if result.status is Status.FAILED:
        message = f"{why}: {result.message}"
        return replace(result, status=Status.KNOWN_FAILURE, message=message)
    state = "it passes" if result.status is Status.PASSED else f"it is {result.status}"
    message = f"listed as a known failure ({why}), but {state}: take it off the list"
    return replace(result, status=Status.UNEXPECTED_PASS, message=message)


def _read_entry(path: Path, number: int, entry: object) -> KnownFailure:
    where = f"{path}: known_failure {number}"
    if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
        raise ConfigError(f"{where}: needs exactly {', '.join(_FIELDS)}")
    for name, kind in _FIELDS.items():
        if not isinstance(entry[name], kind) or (kind is str and not entry[name].strip()):
            raise ConfigError(f"{where}: {name} must be a {kind.__name__} that is not empty")
    return KnownFailure(**entry)
