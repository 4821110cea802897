"""Calls whose parameters, and the members of these, are each a tag named after their key.

As MiniMax-M3 writes them: every tag stands behind a mark, lists are ``item`` tags.
"""

import re
from dataclasses import dataclass
from typing import Any

from tupelo.text.tools.machine import CallMachine, Format
from tupelo.text.tools.reader import escaped, quoted
from tupelo.text.tools.schemas import STRING, ToolSchemas, fitted, types_of
from tupelo.text.tools.source import Finder, MalformedError, Source, Step
from tupelo.text.tools.writer import Draft, Writer

_MAX_DEPTH = 32
_MAX_NAME = 512
_KEY = re.compile(r"[^<>\s]+")


@dataclass(frozen=True, kw_only=True)
class NestedFormat(Format):
    """``mark`` stands before every tag: ``<tool_call>``, ``<invoke name="…">``, ``<KEY>``."""

    mark: str

    @property
    def openers(self) -> tuple[str, ...]:
        return (f"{self.mark}<tool_call>",)

    @property
    def closers(self) -> tuple[str, ...]:
        return (f"{self.mark}</invoke>",)

    @property
    def markers(self) -> tuple[str, ...]:
        return (*super().markers, f'{self.mark}<invoke name="', f"{self.mark}</tool_call>")


@dataclass(slots=True)
class _Element:
    """A tag with what stands in it: ``raw`` is all of it as it was written."""

    key: str
    children: "list[_Element]"
    raw: list[str]


class NestedMachine(CallMachine):
    """Reads ``NestedFormat``."""

    form: NestedFormat

    def __init__(
        self, form: NestedFormat, source: Source, writer: Writer, tools: ToolSchemas
    ) -> None:
        super().__init__(form, source, writer, tools)
        self._mark = Finder((form.mark,))
        self._name_end = Finder(('"',))
        self._tag_end = Finder((">",))

    def block(self, opener: str) -> Step[None]:
        source, mark = self.source, self.form.mark
        source.take(len(opener))
        yield from source.space()
        yield from source.expect(f'{mark}<invoke name="')
        yield from self._call()
        yield from source.space()
        while (yield from source.accept(f'{mark}<invoke name="')):
            yield from self._call()
            yield from source.space()
        yield from source.accept(f"{mark}</tool_call>")

    def _call(self) -> Step[None]:
        source = self.source
        name, _ = yield from source.collect(self._name_end, _MAX_NAME)
        draft = Draft(self.writer)
        draft.named(name)
        yield from source.expect(">")
        draft.add("{")
        num = 0
        while (tag := (yield from self._tag())) != "/invoke":
            draft.add(", " * bool(num) + quoted(tag) + ": ")
            draft.sound()
            num += 1
            yield from self._parameter(draft, tag)
        draft.add("}")
        draft.end()
        self.called()

    def _tag(self) -> Step[str]:
        """Read the next tag; what stands before it is nothing."""
        if not (yield from self.source.until(self._mark, lambda between: None)):
            raise MalformedError
        return (yield from self._rest_of_tag())

    def _rest_of_tag(self) -> Step[str]:
        yield from self.source.expect("<")
        tag, _ = yield from self.source.collect(self._tag_end, _MAX_NAME)
        if not _KEY.fullmatch(tag):
            raise MalformedError
        return tag

    def _parameter(self, draft: Draft, key: str) -> Step[None]:
        assert draft.name is not None
        schema = self.tools.parameter(draft.name, key)
        if types_of(schema) == STRING:
            draft.add('"')
            end = Finder((f"{self.form.mark}</{key}>",))
            if not (yield from self.source.until(end, lambda part: draft.add(escaped(part)))):
                raise MalformedError
            draft.add('"')
        else:
            element = yield from self._element(key)
            draft.add(_as_json(element, schema))

    def _element(self, key: str) -> Step[_Element]:
        """Read what stands in a tag, up to its end."""
        open_elements = [_Element(key, [], [])]
        while True:
            innermost = open_elements[-1]
            if not (yield from self.source.until(self._mark, innermost.raw.append)):
                raise MalformedError
            tag = yield from self._rest_of_tag()
            if tag == f"/{innermost.key}":
                open_elements.pop()
                if not open_elements:
                    return innermost
                outer = open_elements[-1]
                outer.children.append(innermost)
                written = "".join(innermost.raw)
                mark = self.form.mark
                outer.raw.append(f"{mark}<{innermost.key}>{written}{mark}</{innermost.key}>")
            elif tag.startswith("/") or len(open_elements) == _MAX_DEPTH:
                raise MalformedError
            else:
                open_elements.append(_Element(tag, [], []))


def _as_json(element: _Element, schema: Any) -> str:
    """An element's value. Children are members, unless the schema allows plain text."""
    types = types_of(schema)
    if "string" in types or not element.children:
        text = "".join(element.raw)
        if not text.strip() and types & {"object", "array"} and "string" not in types:
            return "[]" if "array" in types else "{}"
        return fitted(text, types)
    if all(child.key == "item" for child in element.children) and "array" in (types or {"array"}):
        items = _part(schema, "items")
        return f"[{', '.join(_as_json(child, items) for child in element.children)}]"
    properties = _part(schema, "properties")
    known = properties if isinstance(properties, dict) else {}
    members = (
        f"{quoted(child.key)}: {_as_json(child, known.get(child.key))}"
        for child in element.children
    )
    return "{" + ", ".join(members) + "}"


def _part(schema: Any, name: str) -> Any:
    """A part of a schema, of one of its branches if it has none itself."""
    if not isinstance(schema, dict):
        return None
    if name in schema:
        return schema[name]
    for choice in ("anyOf", "oneOf", "allOf"):
        for branch in schema.get(choice) or ():
            if isinstance(branch, dict) and name in branch:
                return branch[name]
    return None


NestedFormat.machine = NestedMachine
