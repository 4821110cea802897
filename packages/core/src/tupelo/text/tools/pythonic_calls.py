"""Calls written as Python's: ``[get_weather(city="Paris", days=3)]``. Read, never evaluated."""

import re
from dataclasses import dataclass

from tupelo.text.tools.dialects import PythonReader
from tupelo.text.tools.json_calls import JsonFormat, JsonMachine
from tupelo.text.tools.machine import CallMachine, Format
from tupelo.text.tools.reader import quoted
from tupelo.text.tools.schemas import ToolSchemas
from tupelo.text.tools.source import Finder, MalformedError, Source, Step
from tupelo.text.tools.writer import Draft, Writer

_NAME = re.compile(r"[^\W\d][\w.\-]*")
_NAME_CHARS = re.compile(r"[\w.\-]*")
_KEY_CHARS = re.compile(r"\w*")


@dataclass(frozen=True, kw_only=True)
class PythonicFormat(Format):
    """A list of calls, between markers or as the whole output.

    Attributes:
        opens, closes: markers around the list, which may lack.
        bare: an output that begins with a list of calls needs no markers.
        lines: the calls stand on lines, without the brackets of a list.
        listed: the list may also be in this format.
    """

    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    bare: bool = False
    lines: bool = False
    listed: JsonFormat | None = None

    @property
    def openers(self) -> tuple[str, ...]:
        return self.opens

    @property
    def closers(self) -> tuple[str, ...]:
        return self.closes


class PythonicMachine(CallMachine):
    """Reads ``PythonicFormat``."""

    form: PythonicFormat

    def __init__(
        self, form: PythonicFormat, source: Source, writer: Writer, tools: ToolSchemas
    ) -> None:
        super().__init__(form, source, writer, tools)
        self._reader = PythonReader(source)
        self._list = JsonMachine(form.listed, source, writer, tools) if form.listed else None
        self._stray = Finder(form.closes)

    def start(self) -> Step[None]:
        if self.form.bare:
            yield from self.attempt(self._bare())

    def _bare(self) -> Step[None]:
        yield from self.source.space()
        yield from self._calls()

    def block(self, opener: str) -> Step[None]:
        source = self.source
        source.take(len(opener))
        yield from source.space()
        yield from self._calls()
        space = yield from source.space()
        if not (yield from source.accept(*self.form.closes)):
            self.writer.text(space)
            return
        source.record()
        if self.form.closes and not self.form.lines and (yield from source.at("[")):
            yield from self._repeated()

    def _repeated(self) -> Step[None]:
        """Drop a list that is closed without having been opened: the calls once more."""
        parts: list[str] = []
        if not (yield from self.source.until(self._stray, parts.append)):
            raise MalformedError

    def _calls(self) -> Step[None]:
        source = self.source
        if self.form.lines:
            yield from self._call()
            yield from source.space()
            while _NAME.match((yield from source.peek())):
                yield from self._call()
                yield from source.space()
            return
        yield from source.expect("[")
        yield from source.space()
        if self._list is not None and (yield from source.at("{")):
            yield from self._list.items()
            return
        yield from self._call()
        yield from source.space()
        while not (yield from source.accept("]")):
            yield from source.expect(",")
            yield from source.space()
            yield from self._call()
            yield from source.space()

    def _call(self) -> Step[None]:
        source = self.source
        draft = Draft(self.writer)
        name = yield from source.word(_NAME_CHARS)
        if not _NAME.fullmatch(name):
            raise MalformedError
        draft.named(name)
        yield from source.expect("(")
        draft.add("{")
        yield from source.space()
        num = 0
        while not (yield from source.accept(")")):
            if num:
                yield from source.expect(",")
                yield from source.space()
                if (yield from source.at(")")):
                    continue
            key = yield from source.kept(self._key(), draft.add)
            draft.add(", " * bool(num) + quoted(key) + ": ")
            num += 1
            yield from self._reader.value(draft.add, draft.sound, whole=True)
            yield from source.space()
        draft.add("}")
        draft.end()
        self.called()

    def _key(self) -> Step[str]:
        """Read a keyword, and the sign behind it."""
        key = yield from self.source.word(_KEY_CHARS)
        if not key.isidentifier():
            raise MalformedError
        yield from self.source.space()
        yield from self.source.expect("=")
        yield from self.source.space()
        return key


PythonicFormat.machine = PythonicMachine
