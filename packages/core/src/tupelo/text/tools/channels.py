"""Outputs made of messages, each with a header that says what it is: thought, text, or a call.

OpenAI's harmony format (gpt-oss) and formats like it.
Source: https://cookbook.openai.com/articles/openai-harmony
"""

import re
from dataclasses import dataclass

from tupelo.text.tools.machine import CallMachine, Format
from tupelo.text.tools.reader import Sink, ValueReader
from tupelo.text.tools.schemas import ToolSchemas
from tupelo.text.tools.source import Finder, MalformedError, Source, Step
from tupelo.text.tools.writer import Draft, Writer

_MAX_HEADER = 512
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


@dataclass(frozen=True, kw_only=True)
class ChannelFormat(Format):
    """``start ROLE [to=RECIPIENT] [channel CHANNEL] message BODY end``, the first without start.

    Attributes:
        start, message: markers before a header, and between it and the body.
        header_starts: what a header begins with whose start the prompt holds.
        ends: what a body ends with; ``call_end`` is the one that ends a call.
        thoughts: channels, or recipients, of what is not for the user.
        users: recipients whose messages are text.
        prefix: of recipients that are functions; "" where every other recipient is one.
        calls: whether calls are wanted; else they are text.
        padded: a space behind each marker is not part of what follows.
    """

    start: str = "<|start|>"
    message: str = "<|message|>"
    header_starts: tuple[str, ...] = ("<|channel|>", " to=", "<|constrain|>", "<|message|>")
    ends: tuple[str, ...] = ("<|end|>", "<|return|>", "<|call|>")
    call_end: str = "<|call|>"
    thoughts: frozenset[str] = frozenset({"analysis"})
    users: frozenset[str] = frozenset({"assistant", "user"})
    prefix: str = "functions."
    calls: bool = True
    padded: bool = False

    @property
    def openers(self) -> tuple[str, ...]:
        return (self.start,)

    @property
    def closers(self) -> tuple[str, ...]:
        return self.ends

    @property
    def markers(self) -> tuple[str, ...]:
        return (*super().markers, *self.header_starts, self.message)


class ChannelMachine(CallMachine):
    """Reads ``ChannelFormat``; it finds the reasoning too."""

    form: ChannelFormat

    def __init__(
        self, form: ChannelFormat, source: Source, writer: Writer, tools: ToolSchemas
    ) -> None:
        super().__init__(form, source, writer, tools)
        self._header_end = Finder((form.message, form.start, *form.ends))
        self._body_end = Finder((form.start, *form.ends))
        self._reader = ValueReader(source)

    def start(self) -> Step[None]:
        for literal in self.form.header_starts:
            if (yield from self.source.at(literal)):
                yield from self.attempt(self._message())
                return

    def block(self, opener: str) -> Step[None]:
        self.source.take(len(opener))
        yield from self._message()

    def _message(self) -> Step[None]:
        source, form = self.source, self.form
        header, found = yield from source.collect(self._header_end, _MAX_HEADER)
        if found != form.message:
            raise MalformedError
        if form.padded:
            yield from source.accept(" ")
        channels = _CHANNEL.findall(header)
        channel = channels[-1] if channels else ""
        recipient = (_RECIPIENT.search(header) or [""] * 2)[1]
        addressed = bool(recipient) and recipient not in form.users | form.thoughts
        function = addressed and recipient.startswith(form.prefix)
        if function and form.calls:
            yield from self._call(recipient.removeprefix(form.prefix))
            return
        source.recorded()
        if recipient in form.thoughts or (channel in form.thoughts and not addressed):
            self.writer.thinking = True
            yield from self._body(self.writer.reasoning, half_marker=False)
            self.writer.end_reasoning()
        elif (addressed and not function) or self.writer.num_calls:
            yield from self._body(lambda unseen: None)
        else:
            yield from self._body(self.writer.text)

    def _body(self, sink: Sink, *, half_marker: bool = True) -> Step[None]:
        """Read up to the message's end; the start of another is left for it."""
        found = yield from self.source.until(
            self._body_end, sink, consume=False, half_marker=half_marker
        )
        if found != self.form.start:
            self.source.take(len(found))

    def _call(self, name: str) -> Step[None]:
        draft = Draft(self.writer)
        draft.named(name)
        yield from self.source.space()
        yield from self._reader.value(draft.add, draft.sound)
        draft.end()
        self.called()
        yield from self._body(lambda behind: None)


ChannelFormat.machine = ChannelMachine
