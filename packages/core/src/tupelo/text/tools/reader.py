"""Reads values out of a source, piece by piece, and passes them on as JSON.

One loop does the containers, with a stack of its own: text that nests deeply costs no recursion.
Dialects say what strings, keys and plain words look like. White space outside strings becomes
JSON's usual; a comma before a closing bracket is dropped; characters that JSON must escape are
escaped. So what is passed on is JSON as soon as it is complete.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from tupelo.text.tools.source import MalformedError, Source, Step

Sink = Callable[[str], None]

_MAX_DEPTH = 128
_MAX_KEY = 4096
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z0-9_+\-.]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_HEX = re.compile(r"[0-9a-fA-F]{0,4}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONSTANTS = {
    **{name: name for name in ("true", "false", "null")},
    "True": "true",
    "False": "false",
    "None": "null",
}


def escaped(text: str) -> str:
    """``text`` as it stands in a JSON string, without the quotes."""
    return json.dumps(text, ensure_ascii=bool(_SURROGATE.search(text)))[1:-1]


def quoted(text: str) -> str:
    """``text`` as a JSON string."""
    return f'"{escaped(text)}"'


@dataclass(slots=True)
class _Frame:
    """An open container: what closes it, here and in JSON, and how many members it has had."""

    closer: str
    json_closer: str
    num_members: int = 0


class ValueReader:
    """Reads JSON. Lenient where models err: Python's constants, raw line breaks in strings,
    backslashes that escape nothing, a comma too many.
    """

    brackets = {"{": ("}", "{", "}"), "[": ("]", "[", "]")}  # noqa: RUF012  a constant

    def __init__(self, source: Source) -> None:
        self.source = source

    def value(
        self, sink: Sink, begun: Callable[[], None] = lambda: None, *, whole: bool = False
    ) -> Step[None]:
        """Read one value.

        Args:
            sink: gets the JSON text.
            begun: called whenever a value inside this one has begun.
            whole: call ``begun`` for this one too.

        Raises:
            MalformedError: it is none, or it is incomplete at the end. The sink has got everything
                that was read of it.
        """
        source = self.source
        frames: list[_Frame] = []
        yield from self._item(frames, sink, begun if whole else lambda: None)
        while frames:
            frame = frames[-1]
            yield from source.space()
            if not (yield from source.at(frame.closer)) and frame.num_members:
                yield from source.expect(",")
                yield from source.space()
            if (yield from source.accept(frame.closer)):
                sink(frame.json_closer)
                frames.pop()
                continue
            if frame.num_members:
                sink(", ")
            frame.num_members += 1
            if frame.json_closer == "}":
                sink(quoted((yield from source.kept(self.key(), sink))) + ": ")
                yield from source.space()
            yield from self._item(frames, sink, begun)

    def _item(self, frames: list[_Frame], sink: Sink, begun: Callable[[], None]) -> Step[None]:
        """Read a scalar, or the opening of a container."""
        char = yield from self.source.peek()
        if char in self.brackets and char:
            if len(frames) == _MAX_DEPTH:
                raise MalformedError
            self.source.take(1)
            closer, json_opener, json_closer = self.brackets[char]
            begun()
            sink(json_opener)
            frames.append(_Frame(closer, json_closer))
        elif (yield from self.at_string()):
            begun()
            yield from self.string(sink)
        elif self.begins_word(char):
            begun()
            sink((yield from self.source.kept(self.word(), sink)))
        else:
            raise MalformedError

    def at_string(self) -> Step[bool]:
        """Whether a string comes."""
        return (yield from self.source.at('"'))

    def string(self, sink: Sink) -> Step[None]:
        """Read a string, quotes included."""
        source = self.source
        sink(source.take(1))
        while True:
            sink(source.run(_PLAIN))
            char = yield from source.peek()
            if char == '"':
                sink(source.take(1))
                return
            if char == "\\":
                sink((yield from self._escape()))
            elif char and char < " ":
                sink(escaped(source.take(1)))
            elif not char:
                raise MalformedError

    def _escape(self) -> Step[str]:
        source = self.source
        if (yield from source.at("\\u")):
            if not (yield from source.need(6)):
                raise MalformedError
            source.take(2)
            digits = source.run(_HEX)
            return f"\\u{digits}" if len(digits) == 4 else f"\\\\u{digits}"
        if not (yield from source.need(2)):
            raise MalformedError
        source.take(1)
        char = yield from source.peek()
        if char in '"\\/bfnrt':
            return "\\" + source.take(1)
        return "" if char == "'" else "\\\\"

    def begins_word(self, char: str) -> bool:
        """Whether a number or a constant may begin so; ``char`` is "" at the end."""
        return bool(char) and char in "-0123456789tfnTFN"

    def word(self) -> Step[str]:
        """Read a number or a constant."""
        word = yield from self.source.word(_WORD)
        if word in _CONSTANTS:
            return _CONSTANTS[word]
        if not _NUMBER.fullmatch(word):
            raise MalformedError
        return word

    def key(self) -> Step[str]:
        """Read a member's key, and the colon behind it."""
        if not (yield from self.at_string()):
            raise MalformedError
        key = yield from self.text()
        yield from self.source.space()
        yield from self.source.expect(":")
        return key

    def text(self) -> Step[str]:
        """Read a string of moderate length, and return what it says."""
        parts: list[str] = []
        size = 0

        def keep(part: str) -> None:
            nonlocal size
            parts.append(part)
            size += len(part)
            if size > _MAX_KEY:
                raise MalformedError

        yield from self.string(keep)
        text: str = json.loads("".join(parts))
        return text
