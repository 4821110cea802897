"""Values in other notations than JSON: Python literals, and Gemma's own. Nothing is evaluated."""

import re

from tupelo.text.tools.reader import Sink, ValueReader, escaped, quoted
from tupelo.text.tools.source import Finder, MalformedError, Source, Step

_PYTHON_WORD = re.compile(r"[A-Za-z0-9_+\-.]*")
_PYTHON_NUMBER = re.compile(r"[+-]?([0-9][0-9_]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_HEX_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
_PYTHON_PLAIN = re.compile(r"[^\"'\\]*")
_PYTHON_ESCAPES = {
    **{char: char for char in "\\'\""},
    **{"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"},
    "\n": "",
}
_CODE_SIZES = {"x": 2, "u": 4, "U": 8}
_HEX_DIGITS = re.compile(r"[0-9a-fA-F]+")


class PythonReader(ValueReader):
    """Reads Python literals: strings, numbers, constants (JSON's too), lists, tuples, dicts."""

    brackets = {**ValueReader.brackets, "(": (")", "[", "]")}  # noqa: RUF012  a constant

    def at_string(self) -> Step[bool]:
        char = yield from self.source.peek()
        return bool(char) and char in "\"'"

    def string(self, sink: Sink) -> Step[None]:
        source = self.source
        delimiter = yield from source.accept('"""', "'''", '"', "'")
        sink('"')
        while True:
            sink(escaped(source.run(_PYTHON_PLAIN)))
            char = yield from source.peek()
            if not char:
                raise MalformedError
            if char == "\\":
                sink(escaped((yield from self._python_escape())))
            elif char in "\"'":
                if (yield from source.accept(delimiter)):
                    sink('"')
                    return
                sink(escaped(source.take(1)))

    def _python_escape(self) -> Step[str]:
        source = self.source
        if not (yield from source.need(2)):
            raise MalformedError
        source.take(1)
        kind = source.take(1)
        size = _CODE_SIZES.get(kind)
        if size is None:
            return _PYTHON_ESCAPES.get(kind, "\\" + kind)
        if not (yield from source.need(size)):
            raise MalformedError
        digits = source.take(size)
        if not _HEX_DIGITS.fullmatch(digits) or int(digits, 16) > 0x10FFFF:
            raise MalformedError
        return chr(int(digits, 16))

    def begins_word(self, char: str) -> bool:
        return bool(char) and char in "-+.0123456789tfnTFN"

    def word(self) -> Step[str]:
        word = yield from self.source.word(_PYTHON_WORD)
        return _python_word(word)

    def key(self) -> Step[str]:
        if (yield from self.at_string()):
            key = yield from self.text()
        else:
            char = yield from self.source.peek()
            if not self.begins_word(char):
                raise MalformedError
            key = yield from self.word()
        yield from self.source.space()
        yield from self.source.expect(":")
        return key


def _python_word(word: str) -> str:
    """A number or a constant of Python as JSON."""
    constants = {"True": "true", "False": "false", "None": "null"}
    word = constants.get(word, word)
    if word in constants.values():
        return word
    if _HEX_NUMBER.fullmatch(word):
        return str(int(word, 16))
    found = _PYTHON_NUMBER.fullmatch(word)
    if not found or not (found[1] or len(found[2] or "") > 1):
        raise MalformedError
    sign = "-" * word.startswith("-")
    whole = (found[1] or "0").replace("_", "")
    if len(whole) > 1 and whole.startswith("0") and not (found[2] or found[3]):
        raise MalformedError
    fraction = "" if found[2] is None else (found[2] if len(found[2]) > 1 else ".0")
    return sign + (whole.lstrip("0") or "0") + fraction + (found[3] or "")


class GemmaReader(ValueReader):
    """Reads Gemma's notation: keys are bare, strings stand between two equal marks."""

    _WORD = re.compile(r"[^,{}\[\]]*")
    _KEY = re.compile(r"[^:,{}\[\]]*")

    def __init__(self, source: Source, quote: str) -> None:
        super().__init__(source)
        self._quote = quote
        self._end = Finder((quote,))

    def at_string(self) -> Step[bool]:
        if (yield from self.source.at(self._quote)):
            return True
        return (yield from self.source.at('"'))

    def string(self, sink: Sink) -> Step[None]:
        if not (yield from self.source.accept(self._quote)):
            yield from super().string(sink)
            return
        sink('"')
        if not (yield from self.source.until(self._end, lambda part: sink(escaped(part)))):
            raise MalformedError
        sink('"')

    def begins_word(self, char: str) -> bool:
        return bool(char) and char not in ",:{}[]"

    def word(self) -> Step[str]:
        """Read a number or a constant; anything else is a string that lacks its marks."""
        word = (yield from self.source.word(self._WORD)).strip()
        try:
            return _python_word(word)
        except MalformedError:
            return quoted(word)

    def key(self) -> Step[str]:
        if (yield from self.at_string()):
            key = yield from self.text()
            yield from self.source.space()
        else:
            key = (yield from self.source.word(self._KEY)).strip()
        if not key:
            raise MalformedError
        yield from self.source.expect(":")
        return key
