"""Calls whose name stands outside of the arguments: a marker, the name, and an object."""

from collections.abc import Callable
from dataclasses import dataclass

from tupelo.text.tools.dialects import GemmaReader
from tupelo.text.tools.json_calls import JsonFormat, JsonMachine
from tupelo.text.tools.machine import CallMachine, Format
from tupelo.text.tools.reader import ValueReader
from tupelo.text.tools.schemas import ToolSchemas
from tupelo.text.tools.source import Finder, MalformedError, Source, Step
from tupelo.text.tools.writer import Draft, Writer

_MAX_HEADER = 512


def stripped_name(header: str) -> tuple[str, str | None]:
    """The name is all that stands there."""
    return header.strip(), None


@dataclass(frozen=True, kw_only=True)
class NamedFormat(Format):
    """``open NAME name_end ARGUMENTS close``, perhaps several in a section.

    Attributes:
        opens: what a call begins with.
        name_ends: what the name ends at; "{" is already the arguments' beginning.
        closes: what a call ends with, which may lack.
        sections, section_closes: markers around all calls.
        name: takes the name, and the call's id where there is one, out of the header.
        gemma_quote: the arguments are in Gemma's notation, with this mark around strings.
        listed: behind ``opens`` there may also be a list of calls in this format.
        begins_in_header: the prompt ends with ``opens``, so the output begins behind it.
        text_name: a name that stands for text.
    """

    opens: tuple[str, ...]
    name_ends: tuple[str, ...]
    closes: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    section_closes: tuple[str, ...] = ()
    name: Callable[[str], tuple[str, str | None]] = stripped_name
    gemma_quote: str = ""
    listed: JsonFormat | None = None
    begins_in_header: bool = False
    text_name: str = ""

    @property
    def openers(self) -> tuple[str, ...]:
        return (*self.sections, *self.opens)

    @property
    def closers(self) -> tuple[str, ...]:
        return self.closes

    @property
    def markers(self) -> tuple[str, ...]:
        return (*super().markers, *self.name_ends, *self.section_closes, self.gemma_quote)


class NamedMachine(CallMachine):
    """Reads ``NamedFormat``."""

    form: NamedFormat

    def __init__(
        self, form: NamedFormat, source: Source, writer: Writer, tools: ToolSchemas
    ) -> None:
        super().__init__(form, source, writer, tools)
        self._name_ends = Finder(form.name_ends)
        self._list = JsonMachine(form.listed, source, writer, tools) if form.listed else None
        self._reader = (
            GemmaReader(source, form.gemma_quote) if form.gemma_quote else ValueReader(source)
        )

    def start(self) -> Step[None]:
        if self.form.begins_in_header:
            yield from self.attempt(self._call())

    def block(self, opener: str) -> Step[None]:
        source, form = self.source, self.form
        if opener in form.sections:
            source.take(len(opener))
            yield from source.space()
            yield from source.expect(form.opens[0])
        else:
            source.take(len(opener))
        if self._list is not None:
            yield from source.space()
            if (yield from source.at("[")):
                yield from self._list.calls()
                return
        yield from self._call()
        while True:
            space = yield from source.space()
            if (yield from source.accept(*form.section_closes)):
                return
            if not (yield from source.accept(*form.opens)):
                self.writer.text(space)
                return
            yield from self._call()

    def _call(self) -> Step[None]:
        source, form = self.source, self.form
        header, found = yield from source.collect(self._name_ends, _MAX_HEADER, consume=False)
        if found != "{":
            source.take(len(found))
        name, call_id = form.name(header)
        if form.text_name and name == form.text_name:
            source.record()
            return
        draft = Draft(self.writer)
        draft.named(name, call_id)
        yield from source.space()
        if (yield from source.at("{")):
            yield from self._reader.value(draft.add, draft.sound)
        else:
            yield from self._no_arguments()
            draft.add("{}")
        draft.end()
        self.called()
        space = yield from source.space()
        if not (yield from source.accept(*form.closes)):
            self.writer.text(space)

    def _no_arguments(self) -> Step[None]:
        """Make sure that the call ends here."""
        for close in self.form.closes:
            if (yield from self.source.at(close)):
                return
        raise MalformedError


NamedFormat.machine = NamedMachine
