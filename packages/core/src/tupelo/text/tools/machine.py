"""What the formats of tool calls have in common: text, and blocks in it that hold calls."""

from dataclasses import dataclass
from typing import ClassVar

from tupelo.text.tools.held import LeadIn
from tupelo.text.tools.schemas import ToolSchemas
from tupelo.text.tools.source import Finder, MalformedError, Source, Step
from tupelo.text.tools.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a family of models writes tool calls.

    Attributes:
        dropped: markers that are no text wherever they stand outside of calls.
        text_after: whether text may follow a block of calls; else what follows is dropped.
        introduced: whether a sentence that introduces calls is dropped with their markers.
        replaced: characters that stand for others in this model's output.
    """

    machine: ClassVar["type[CallMachine]"]

    dropped: tuple[str, ...] = ()
    text_after: bool = True
    introduced: bool = False
    replaced: tuple[tuple[str, str], ...] = ()

    @property
    def openers(self) -> tuple[str, ...]:
        """What a block of calls begins with."""
        return ()

    @property
    def closers(self) -> tuple[str, ...]:
        """What a broken call ends at."""
        return ()

    @property
    def markers(self) -> tuple[str, ...]:
        """Every literal text of the format; those that are special tokens must stay visible."""
        return (*self.openers, *self.closers, *self.dropped)


class CallMachine:
    """Reads text with calls in it. Formats derive ``block``, and ``start`` where they need it."""

    def __init__(self, form: Format, source: Source, writer: Writer, tools: ToolSchemas) -> None:
        self.form = form
        self.source = source
        self.writer = writer
        self.tools = tools
        self._starts = Finder((*form.openers, *form.dropped))
        self._ends = Finder(form.closers)
        if form.introduced:
            writer.held.append(LeadIn())

    def steps(self) -> Step[None]:
        """Read the whole output."""
        yield from self.start()
        while True:
            found = yield from self.source.until(self._starts, self.writer.text, consume=False)
            if not found:
                return
            if found in self.form.dropped:
                self.source.take(len(found))
            else:
                yield from self.attempt(self.block(found))

    def start(self) -> Step[None]:
        """Read what is special about the beginning of an output."""
        yield from ()

    def block(self, opener: str) -> Step[None]:
        """Read a block of calls; ``opener`` comes next.

        Raises:
            MalformedError: it is none. What was read since the last whole call is kept as text.
        """
        raise NotImplementedError

    def attempt(self, steps: Step[None]) -> Step[None]:
        """Read a block, or keep it as text. A call that was announced keeps what it had, raw."""
        self.source.record()
        num_calls = self.writer.num_calls
        self.writer.draft = None
        try:
            yield from steps
        except MalformedError:
            if self.source.over and self.writer.draft is not None:
                self.writer.draft.cut()
            if self.writer.in_call:
                yield from self.source.until(self._ends, self.writer.arguments)
                self.writer.end()
            else:
                self.writer.text(self.source.recorded(), force=True)
        self.source.recorded()
        if self.writer.num_calls > num_calls and not self.form.text_after:
            self.writer.text_is_over = True

    def called(self) -> None:
        """A call is complete: should the block break later, this much is not text."""
        self.source.record()


@dataclass(frozen=True, kw_only=True)
class PlainFormat(Format):
    """No tool calls, only text."""


PlainFormat.machine = CallMachine
