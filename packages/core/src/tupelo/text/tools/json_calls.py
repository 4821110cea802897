"""Calls written as JSON objects that hold name and arguments, behind a marker or on their own."""

import json
from dataclasses import dataclass

from tupelo.text.tools.machine import CallMachine, Format
from tupelo.text.tools.reader import ValueReader
from tupelo.text.tools.schemas import ToolSchemas, members
from tupelo.text.tools.source import MalformedError, Source, Step
from tupelo.text.tools.writer import Draft, Writer


@dataclass(frozen=True, kw_only=True)
class JsonFormat(Format):
    """A marker, then a call, or a list of calls, as JSON.

    Attributes:
        opens: markers before.
        bare: beginnings of a call's JSON that need no marker before.
        closes: markers behind, which may lack.
        ambiguous: those of ``opens`` that text may hold too. Behind these, and where there is no
            marker, JSON is a call only if all its keys are such as calls have.
        names, arguments, ids: keys of a call's parts.
        keyed: a call is ``{name: arguments}``.
        separators: characters between calls that stand outside of a list.
    """

    opens: tuple[str, ...]
    bare: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    names: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    ids: tuple[str, ...] = ("id",)
    keyed: bool = False
    separators: str = ""

    @property
    def openers(self) -> tuple[str, ...]:
        return (*self.opens, *self.bare)

    @property
    def closers(self) -> tuple[str, ...]:
        return self.closes


class JsonMachine(CallMachine):
    """Reads ``JsonFormat``."""

    form: JsonFormat

    def __init__(
        self, form: JsonFormat, source: Source, writer: Writer, tools: ToolSchemas
    ) -> None:
        super().__init__(form, source, writer, tools)
        self._reader = ValueReader(source)
        known = (*form.names, *form.arguments, *form.ids, "type")
        self._known = frozenset(known)

    def block(self, opener: str) -> Step[None]:
        bare = opener in self.form.bare
        if not bare:
            self.source.take(len(opener))
        yield from self.source.space()
        yield from self.calls(strict=bare or opener in self.form.ambiguous)
        yield from self._close()

    def calls(self, *, strict: bool = False) -> Step[None]:
        """Read a call, or a list of calls. If ``strict``, unknown keys make it no call."""
        source = self.source
        if (yield from source.accept("[")):
            yield from source.space()
            yield from self.items(strict=strict)
            return
        yield from self._call(strict)
        while self.form.separators:
            yield from source.space()
            char = yield from source.peek()
            if not char or char not in self.form.separators:
                break
            source.take(1)
            yield from source.space()
            yield from self._call(strict)

    def items(self, *, strict: bool = False) -> Step[None]:
        """Read the calls of a list whose bracket has been read."""
        yield from self._call(strict)
        yield from self.source.space()
        while not (yield from self.source.accept("]")):
            yield from self.source.expect(",")
            yield from self.source.space()
            yield from self._call(strict)
            yield from self.source.space()

    def _close(self) -> Step[None]:
        """Read the closing marker if it is there, and brackets too many before it."""
        space = yield from self.source.space()
        while self.form.closes and (yield from self.source.accept("}", "]")):
            space = yield from self.source.space()
        if not (yield from self.source.accept(*self.form.closes)):
            self.writer.text(space)

    def _call(self, strict: bool) -> Step[None]:
        source = self.source
        draft = Draft(self.writer)
        yield from source.expect("{")
        yield from source.space()
        first = True
        while not (yield from source.accept("}")):
            if not first:
                yield from source.expect(",")
                yield from source.space()
            first = False
            key = yield from self._reader.key()
            yield from source.space()
            yield from self._member(draft, key, strict)
            yield from source.space()
        if not draft.has_arguments:
            if strict:
                raise MalformedError
            draft.add("{}")
        draft.end()
        self.called()

    def _member(self, draft: Draft, key: str, strict: bool) -> Step[None]:
        form = self.form
        if form.keyed and draft.name is None:
            draft.named(key)
            yield from self._arguments(draft)
        elif key in form.names and draft.name is None:
            if not (yield from self._reader.at_string()):
                raise MalformedError
            draft.named((yield from self._reader.text()))
        elif key in form.arguments and not draft.has_arguments:
            yield from self._arguments(draft)
        elif key in form.ids and draft.id is None and (yield from self._reader.at_string()):
            draft.id = yield from self._reader.text()
        elif strict and key not in self._known:
            raise MalformedError
        else:
            yield from self._reader.value(lambda part: None)

    def _arguments(self, draft: Draft) -> Step[None]:
        """Read the arguments; an object inside a string is taken out of it, null means none."""
        if (yield from self.source.at("{")):
            yield from self._reader.value(draft.add, draft.sound)
        else:
            parts: list[str] = []
            yield from self._reader.value(parts.append)
            found = "".join(parts)
            inner: str = json.loads(found) if found.startswith('"') else found
            if members(inner) is not None:
                found = inner
            draft.add("{}" if found == "null" else found)
        draft.sound()


JsonFormat.machine = JsonMachine
