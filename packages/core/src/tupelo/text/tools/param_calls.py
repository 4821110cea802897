"""Calls written as markup: each parameter stands between tags of its own.

What a value is, a number or a string, the tool's schema says (``schemas``). A parameter that can
only be a string is passed on as it comes, others when they are complete.
"""

import re
from dataclasses import dataclass

from tupelo.text.tools.machine import CallMachine, Format
from tupelo.text.tools.reader import Sink, ValueReader, escaped, quoted
from tupelo.text.tools.schemas import STRING, ToolSchemas, fitted, members, types_of
from tupelo.text.tools.source import Finder, MalformedError, Source, Step
from tupelo.text.tools.writer import Draft, Writer

_MAX_HEADER = 1024
_ATTRIBUTE = re.compile(r'([A-Za-z_]+)="([^"]*)"')
_CDATA = "<![CDATA["
_CDATA_END = Finder(("]]>",))


@dataclass(frozen=True, kw_only=True)
class ParamFormat(Format):
    """``open NAME name_end (param KEY key_end [value] VALUE value_close)* call_close``.

    Instead of parameters there may be one JSON object. A key ends at a quote if there is one; what
    follows up to ``key_end`` are attributes, which may tell the value's type.

    Attributes:
        opens: what a call begins with.
        name_ends: what its name ends at; a parameter, the call's end, or the "{" of an object are
            left where they are.
        params, key_end, value: what stands before and behind a parameter's key, and before its
            value.
        value_close, call_close: what ends a parameter, and a call.
        sections, section_close: markers around all calls.
        bare: the markers around may lack.
        between: markers that may stand between calls.
        lines: values stand on lines of their own: a line break on either side is not theirs.
        cdata: a value may stand between XML's CDATA marks.
        strict: only tools and parameters that the request has make a call.
    """

    opens: tuple[str, ...]
    name_ends: tuple[str, ...]
    params: tuple[str, ...]
    key_end: str
    value: str = ""
    value_close: str
    call_close: str
    sections: tuple[str, ...] = ()
    section_close: str = ""
    bare: bool = True
    between: tuple[str, ...] = ()
    lines: bool = False
    cdata: bool = False
    strict: bool = False

    @property
    def openers(self) -> tuple[str, ...]:
        return (*self.sections, *(self.opens if self.bare else ()))

    @property
    def closers(self) -> tuple[str, ...]:
        return (self.call_close,)

    @property
    def markers(self) -> tuple[str, ...]:
        more = (self.key_end, self.value, self.value_close, self.section_close)
        return (*super().markers, *self.opens, *self.params, *self.between, *more)

    @property
    def value_ends(self) -> tuple[str, ...]:
        """What ends a value; on lines of its own also what follows a value that was not closed."""
        if not self.lines:
            return (self.value_close,)
        begins = (f"\n{param}" for param in self.params)
        return (self.value_close, f"\n{self.value_close}", *begins, f"\n{self.call_close}")


class ParamMachine(CallMachine):
    """Reads ``ParamFormat``."""

    form: ParamFormat

    def __init__(
        self, form: ParamFormat, source: Source, writer: Writer, tools: ToolSchemas
    ) -> None:
        super().__init__(form, source, writer, tools)
        self._name_ends = Finder(form.name_ends)
        self.body = Finder((*form.params, form.call_close))
        self.key_end = Finder((form.key_end,))
        self.value_start = Finder((form.value,)) if form.value else None
        self.value_ends = Finder(form.value_ends)

    def block(self, opener: str) -> Step[None]:
        source, form = self.source, self.form
        if opener not in form.sections:
            yield from source.expect(opener)
            yield from self._call()
            space = yield from source.space()
            if not form.section_close or not (yield from source.accept(form.section_close)):
                self.writer.text(space)
            return
        source.take(len(opener))
        yield from self._skip()
        if not (yield from source.accept(*form.opens)):
            raise MalformedError
        yield from self._call()
        yield from self._skip()
        while (yield from source.accept(*form.opens)):
            yield from self._call()
            yield from self._skip()
        yield from source.accept(form.section_close)

    def _skip(self) -> Step[None]:
        """Pass over what stands between calls."""
        yield from self.source.space()
        while self.form.between and (yield from self.source.accept(*self.form.between)):
            yield from self.source.space()

    def _call(self) -> Step[None]:
        form = self.form
        header, end = yield from self.source.collect(self._name_ends, _MAX_HEADER, consume=False)
        if end not in (*form.params, form.call_close, "{"):
            self.source.take(len(end))
        name = header.strip().removesuffix("\\n")
        draft = Draft(self.writer, hold=form.strict)
        draft.named(name)
        if form.strict and not self.tools.knows(name):
            raise MalformedError
        yield from self.source.space()
        if (yield from self.source.at("{")):
            yield from ValueReader(self.source).value(draft.add, draft.sound)
            yield from self.source.space()
            yield from self.source.accept(form.call_close)
        else:
            yield from _Parameters(self, name, draft).steps()
        draft.end()
        self.called()


class _Parameters:
    """The parameters of one call."""

    def __init__(self, machine: ParamMachine, tool: str, draft: Draft) -> None:
        self._machine = machine
        self._form = machine.form
        self._source = machine.source
        self._tools = machine.tools
        self._tool = tool
        self._draft = draft
        self._num = 0
        self._seen: set[str] = set()

    def steps(self) -> Step[None]:
        """Read them, up to the end of the call."""
        source, machine = self._source, self._machine
        self._draft.add("{")
        while True:
            found = yield from source.until(machine.body, self._between)
            if not found:
                raise MalformedError
            if found == self._form.call_close:
                break
            header, _ = yield from source.collect(machine.key_end, _MAX_HEADER)
            key, _, attributes = header.strip().removeprefix('"').partition('"')
            if not key or (self._form.strict and key in self._seen):
                raise MalformedError
            self._seen.add(key)
            if machine.value_start is not None:
                yield from source.until(machine.value_start, self._between)
            yield from self._value(key, dict(_ATTRIBUTE.findall(attributes)))
        if self._form.strict and self._seen and not self._num:
            raise MalformedError
        self._draft.add("}")

    def _between(self, text: str) -> None:
        """What stands between parameters is nothing, unless the format is strict."""
        if self._form.strict and text.strip():
            raise MalformedError

    def _value(self, key: str, hints: dict[str, str]) -> Step[None]:
        types = types_of(self._tools.parameter(self._tool, key)) or _hinted(hints)
        wrapper = self._tools.is_wrapper(self._tool, key)
        if types == STRING and not wrapper and not self._form.cdata:
            self._member(key)
            self._draft.add('"')
            yield from self._text(lambda part: self._draft.add(escaped(part)))
            self._draft.add('"')
            return
        parts: list[str] = []
        is_text = yield from self._text(parts.append)
        text = "".join(parts)
        value = quoted(text) if is_text else fitted(text, frozenset() if wrapper else types)
        inner = members(value) if wrapper else None
        known = self._tools.properties(self._tool) or {}
        for name, member in ({key: value} if inner is None else inner).items():
            if name in known or not self._form.strict:
                self._member(name)
                self._draft.add(member)

    def _member(self, key: str) -> None:
        self._draft.add(", " * bool(self._num) + quoted(key) + ": ")
        self._draft.sound()
        self._num += 1

    def _text(self, sink: Sink) -> Step[bool]:
        """Read a value's text, and what ends it; True if it was marked as text."""
        source, form = self._source, self._form
        is_text = False
        if form.cdata and (yield from source.accept(_CDATA)):
            is_text = True
            if not (yield from source.until(_CDATA_END, sink)):
                raise MalformedError
            sink = self._between
        elif form.lines:
            yield from source.accept("\n")
        found = yield from source.until(self._machine.value_ends, sink, consume=False)
        if not found:
            raise MalformedError
        if found.endswith(form.value_close):
            source.take(len(found))
        return is_text


def _hinted(hints: dict[str, str]) -> frozenset[str]:
    """The types that a parameter's own tag tells; empty if it tells none."""
    if hints.get("string") == "true" or hints.get("type") == "string":
        return STRING
    return frozenset()


ParamFormat.machine = ParamMachine
