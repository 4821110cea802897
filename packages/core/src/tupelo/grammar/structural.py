"""Structural tags: free text in which some passages have a form, such as calls of tools.

Both notations are read into one tree: the older ``{"structures": [...], "triggers": [...]}``, and
the one with ``{"format": {...}}``, whose nodes are described at their classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tupelo.grammar.backend import GrammarError
from tupelo.grammar.schema import parse_json

MAX_NODES = 4096
MAX_DEPTH = 32


@dataclass(frozen=True)
class Const:
    """``const_string``: a text as it stands."""

    text: str


@dataclass(frozen=True)
class Schema:
    """``json_schema``: a JSON value."""

    schema: Any


@dataclass(frozen=True)
class Pattern:
    """``regex``: a text that a regular expression matches as a whole."""

    pattern: str


@dataclass(frozen=True)
class Ebnf:
    """``grammar``: a text of an EBNF grammar."""

    text: str


@dataclass(frozen=True)
class AnyText:
    """``any_text``: everything up to the fixed text that follows, or to the end.

    Attributes:
        excludes: texts that may not appear in it.
    """

    excludes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sequence:
    """``sequence``: one after the other. A tag is one as well."""

    items: tuple["Format", ...]


@dataclass(frozen=True)
class Either:
    """``or``: one of several."""

    options: tuple["Format", ...]


@dataclass(frozen=True)
class Repeated:
    """``optional``, ``star``, ``plus`` and ``repeat``; ``high`` None has no limit."""

    item: "Format"
    low: int
    high: int | None


@dataclass(frozen=True)
class Tag:
    """``tag``: fixed text, content, one of some fixed texts."""

    begin: str
    content: "Format"
    ends: tuple[str, ...]


@dataclass(frozen=True)
class Triggered:
    """``triggered_tags``: free text; where a trigger appears, it opens one of the tags that begin
    with it.

    Attributes:
        at_least_one: the output begins with a tag.
        stop_after_first: it ends with its first tag.
    """

    triggers: tuple[str, ...]
    tags: tuple[Tag, ...]
    at_least_one: bool
    stop_after_first: bool
    excludes: tuple[str, ...]


@dataclass(frozen=True)
class Separated:
    """``tags_with_separator``: tags and nothing else, with a fixed text between them."""

    tags: tuple[Tag, ...]
    separator: str
    at_least_one: bool
    stop_after_first: bool


Format = (
    Const
    | Schema
    | Pattern
    | Ebnf
    | AnyText
    | Sequence
    | Either
    | Repeated
    | Tag
    | Triggered
    | Separated
)


def parse_structural(text: str) -> Format:
    """The tree of a structural tag in either notation.

    Raises:
        GrammarError: no structural tag; names the place.
    """
    value = parse_json(text)
    if not isinstance(value, dict) or value.get("type", "structural_tag") != "structural_tag":
        raise GrammarError('must be an object with the type "structural_tag"')
    if "format" in value:
        return _Reader().format(value["format"], "format", 0)
    return _Reader().legacy(value)


class _Reader:
    """Checks every field of every node, and counts them."""

    def __init__(self) -> None:
        self._num_nodes = 0
        self._kinds: dict[str, Callable[[dict[str, Any], str, int], Format]] = {
            "const_string": lambda v, p, d: Const(_text(v, "value", p)),
            "json_schema": self._schema,
            "regex": lambda v, p, d: Pattern(_text(v, "pattern", p)),
            "grammar": lambda v, p, d: Ebnf(_text(v, "grammar", p)),
            "any_text": lambda v, p, d: AnyText(_texts(v, "excludes", p)),
            "sequence": lambda v, p, d: Sequence(self._formats(v, p, d)),
            "or": lambda v, p, d: Either(self._formats(v, p, d)),
            "optional": lambda v, p, d: Repeated(self._content(v, p, d), 0, 1),
            "star": lambda v, p, d: Repeated(self._content(v, p, d), 0, None),
            "plus": lambda v, p, d: Repeated(self._content(v, p, d), 1, None),
            "repeat": self._repeat,
            "tag": self._tag,
            "triggered_tags": self._triggered,
            "tags_with_separator": self._separated,
        }

    def format(self, value: Any, place: str, depth: int) -> Format:
        """One node and all below it."""
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES or depth > MAX_DEPTH:
            raise GrammarError(f"{place}: more than {MAX_NODES} nodes, or {MAX_DEPTH} levels")
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in self._kinds:
            raise GrammarError(
                f"{place}.type: {kind!r:.60} is not supported; allowed: {', '.join(self._kinds)}"
            )
        return self._kinds[kind](value, place, depth)

    def legacy(self, value: dict[str, Any]) -> Format:
        """The older notation, all of whose contents are JSON."""
        structures, triggers = value.get("structures"), _texts(value, "triggers", "")
        if not isinstance(structures, list) or not structures:
            raise GrammarError("structures: must be a list that is not empty")
        tags = []
        for number, item in enumerate(structures):
            place = f"structures[{number}]"
            if not isinstance(item, dict):
                raise GrammarError(f"{place}: must be an object")
            schema = Schema(_schema_of(item.get("schema", {}), f"{place}.schema"))
            tags.append(Tag(_text(item, "begin", place), schema, _ends(item, place)))
        return _checked(Triggered(triggers, tuple(tags), False, False, ()), "triggers")

    def _schema(self, value: dict[str, Any], place: str, depth: int) -> Format:
        if value.get("style", "json") != "json":
            raise GrammarError(f"{place}.style: only json is supported")
        return Schema(_schema_of(value.get("json_schema"), f"{place}.json_schema"))

    def _formats(self, value: dict[str, Any], place: str, depth: int) -> tuple[Format, ...]:
        items = value.get("elements")
        if not isinstance(items, list) or not items:
            raise GrammarError(f"{place}.elements: must be a list that is not empty")
        return tuple(
            self.format(item, f"{place}.elements[{i}]", depth + 1) for i, item in enumerate(items)
        )

    def _content(self, value: dict[str, Any], place: str, depth: int) -> Format:
        return self.format(value.get("content"), f"{place}.content", depth + 1)

    def _repeat(self, value: dict[str, Any], place: str, depth: int) -> Format:
        low, high = value.get("min", 0), value.get("max")
        if type(low) is not int or not (high is None or type(high) is int):
            raise GrammarError(f"{place}: min and max must be integers")
        limit = None if high is None or high < 0 else high
        if not 0 <= low <= (100_000 if limit is None else limit) <= 100_000:
            raise GrammarError(f"{place}: min and max must be from 0 to 100000, min not above max")
        return Repeated(self._content(value, place, depth), low, limit)

    def _tag(self, value: dict[str, Any], place: str, depth: int) -> Tag:
        if value.get("type", "tag") != "tag":
            raise GrammarError(f"{place}.type: must be tag")
        content = self._content(value, place, depth)
        return Tag(_text(value, "begin", place), content, _ends(value, place))

    def _tags(self, value: dict[str, Any], place: str, depth: int) -> tuple[Tag, ...]:
        items = value.get("tags")
        if not isinstance(items, list) or not items:
            raise GrammarError(f"{place}.tags: must be a list that is not empty")
        tags = []
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise GrammarError(f"{place}.tags[{number}]: must be an object")
            tags.append(self._tag(item, f"{place}.tags[{number}]", depth + 1))
        return tuple(tags)

    def _triggered(self, value: dict[str, Any], place: str, depth: int) -> Format:
        found = Triggered(
            _texts(value, "triggers", place),
            self._tags(value, place, depth),
            _flag(value, "at_least_one", place),
            _flag(value, "stop_after_first", place),
            _texts(value, "excludes", place),
        )
        return _checked(found, place)

    def _separated(self, value: dict[str, Any], place: str, depth: int) -> Format:
        return Separated(
            self._tags(value, place, depth),
            _text(value, "separator", place),
            _flag(value, "at_least_one", place),
            _flag(value, "stop_after_first", place),
        )


def _checked(value: Triggered, place: str) -> Triggered:
    """Every tag has a trigger, every trigger a tag, and neither is empty."""
    if not value.triggers or not all(value.triggers):
        raise GrammarError(f"{place}: triggers must be texts that are not empty")
    for tag in value.tags:
        if not any(tag.begin.startswith(trigger) for trigger in value.triggers):
            raise GrammarError(f"{place}: no trigger begins {tag.begin!r:.60}")
    for trigger in value.triggers:
        if not any(tag.begin.startswith(trigger) for tag in value.tags):
            raise GrammarError(f"{place}: the trigger {trigger!r:.60} begins no tag")
    return value


def _text(value: dict[str, Any], name: str, place: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise GrammarError(f"{place}.{name}: must be a string")
    return text


def _texts(value: dict[str, Any], name: str, place: str) -> tuple[str, ...]:
    texts = value.get(name, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise GrammarError(f"{f'{place}.' if place else ''}{name}: must be a list of strings")
    return tuple(dict.fromkeys(texts))


def _ends(value: dict[str, Any], place: str) -> tuple[str, ...]:
    ends = value.get("end", "")
    ends = [ends] if isinstance(ends, str) else ends
    if not isinstance(ends, list) or not ends or not all(isinstance(end, str) for end in ends):
        raise GrammarError(f"{place}.end: must be a string or a list of strings")
    return tuple(dict.fromkeys(ends))


def _flag(value: dict[str, Any], name: str, place: str) -> bool:
    flag = value.get(name, False)
    if type(flag) is not bool:
        raise GrammarError(f"{place}.{name}: must be true or false")
    return flag


def _schema_of(value: Any, place: str) -> Any:
    schema = parse_json(value) if isinstance(value, str) else value
    if not isinstance(schema, dict | bool):
        raise GrammarError(f"{place}: a JSON Schema is an object or a boolean")
    return schema
