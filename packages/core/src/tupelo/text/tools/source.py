"""The text of one output as it comes, and the steps that machines read it with.

A machine is a generator: it reads with ``yield from`` and is suspended wherever the next character
is not there yet. So a format is written down as if the whole text were at hand, and what it makes
of a text cannot depend on how the text was cut. Whenever a machine waits, what it left unread is
shorter than the longest marker (or number) it looks for; so the work is linear in the text.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Step = Generator[None, None, T]
"""Reading that may have to wait for more text, and gives a ``T`` when it is done."""

SPACE = " \t\r\n"
_SPACE_RUN = re.compile(r"[ \t\r\n]*")


class MalformedError(Exception):
    """The text breaks its format, or ends too early. Raised and caught inside the machines."""


class Finder:
    """Finds the first of several markers. None of them may begin another."""

    def __init__(self, markers: tuple[str, ...]) -> None:
        unique = tuple(dict.fromkeys(markers))
        for marker in unique:
            begins = [other for other in unique if other != marker and other.startswith(marker)]
            assert not begins, f"{marker!r} begins {begins}"
        self._pattern = re.compile("|".join(map(re.escape, unique)) or r"(?!)")
        self._beginnings = {marker[:size] for marker in unique for size in range(1, len(marker))}
        self._most = max(map(len, unique), default=1) - 1

    def search(self, text: str, start: int) -> re.Match[str] | None:
        return self._pattern.search(text, start)

    def begun(self, text: str, start: int) -> int:
        """How many of the last characters may be the beginning of a marker."""
        for size in range(min(self._most, len(text) - start), 0, -1):
            if text[len(text) - size :] in self._beginnings:
                return size
        return 0


class Source:
    """The unread part of an output.

    Attributes:
        work: characters that were copied or searched so far, a measure of the work done.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._closed = False
        self._record: list[str] | None = None
        self._trail: list[str] | None = None
        self.work = 0

    @property
    def left(self) -> int:
        """How many characters that came are unread."""
        return len(self._text) - self._at

    @property
    def over(self) -> bool:
        """Whether the output has been read to its end."""
        return self._closed and not self.left

    def feed(self, text: str) -> None:
        """Add what came."""
        self._text = self._text[self._at :] + text
        self._at = 0
        self.work += len(self._text)

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True

    def record(self) -> None:
        """From here on, remember what is read."""
        self._record = []

    def recorded(self) -> str:
        """What was read since ``record``; the memory ends."""
        parts, self._record = self._record, None
        return "".join(parts or ())

    def kept(self, steps: Step[str], sink: Callable[[str], None]) -> Step[str]:
        """What ``steps`` read; should they fail, ``sink`` gets the text that they took.

        Raises:
            MalformedError: they failed.
        """
        self._trail = []
        try:
            return (yield from steps)
        except MalformedError:
            sink("".join(self._trail))
            raise
        finally:
            self._trail = None

    def take(self, count: int) -> str:
        """Read characters that are there."""
        text = self._text[self._at : self._at + count]
        self._at += count
        self.work += count
        if self._record is not None:
            self._record.append(text)
        if self._trail is not None:
            self._trail.append(text)
        return text

    def run(self, pattern: re.Pattern[str]) -> str:
        """Read what matches here, of what is there."""
        found = pattern.match(self._text, self._at)
        return self.take(found.end() - self._at) if found else ""

    def need(self, count: int) -> Step[bool]:
        """Wait until ``count`` characters lie ahead; False if the output ends before."""
        while self.left < count:
            if self._closed:
                return False
            yield
        return True

    def peek(self) -> Step[str]:
        """The next character, "" at the end."""
        yield from self.need(1)
        return self._text[self._at : self._at + 1]

    def at(self, literal: str) -> Step[bool]:
        """Whether ``literal`` comes next; waits no longer than that is open."""
        while True:
            ahead = self._text[self._at : self._at + len(literal)]
            self.work += len(ahead)
            if ahead == literal:
                return True
            if self._closed or not literal.startswith(ahead):
                return False
            yield

    def accept(self, *literals: str) -> Step[str]:
        """Read the one of ``literals`` that comes next; "" if none does."""
        for literal in literals:
            if (yield from self.at(literal)):
                return self.take(len(literal))
        return ""

    def expect(self, literal: str) -> Step[None]:
        """Read ``literal``.

        Raises:
            MalformedError: something else comes.
        """
        if not (yield from self.at(literal)):
            raise MalformedError
        self.take(len(literal))

    def space(self) -> Step[str]:
        """Read white space."""
        parts = []
        while True:
            parts.append(self.run(_SPACE_RUN))
            if self.left or self._closed:
                return "".join(parts)
            yield

    def word(self, chars: re.Pattern[str], limit: int = 400) -> Step[str]:
        """Read a run of characters; ``chars`` matches any number of them.

        Raises:
            MalformedError: there are more than ``limit``.
        """
        parts: list[str] = []
        size = 0
        while True:
            parts.append(self.run(chars))
            size += len(parts[-1])
            if size > limit:
                raise MalformedError
            if self.left or self._closed:
                return "".join(parts)
            yield

    def until(
        self,
        finder: Finder,
        sink: Callable[[str], None],
        *,
        consume: bool = True,
        half_marker: bool = True,
    ) -> Step[str]:
        """Read up to one of the markers, passing on what lies before it.

        Returns the marker, "" if the output ends without one. With ``consume`` false the marker
        stays unread; with ``half_marker`` false, two or more characters that begin a marker at the
        end of the output are not passed on.
        """
        while True:
            found = finder.search(self._text, self._at)
            if found is not None:
                end = found.start()
            else:
                end = len(self._text)
                begun = finder.begun(self._text, self._at)
                if not self._closed or (begun > 1 and not half_marker):
                    end -= begun
            if end > self._at:
                sink(self.take(end - self._at))
            if found is not None:
                if consume:
                    self.take(len(found[0]))
                return found[0]
            if self._closed:
                self.take(self.left)
                return ""
            yield

    def collect(self, finder: Finder, limit: int, *, consume: bool = True) -> Step[tuple[str, str]]:
        """Read up to one of the markers: what lies before it, and the marker.

        Raises:
            MalformedError: no marker within ``limit`` characters, or before the end.
        """
        parts: list[str] = []
        size = 0

        def keep(part: str) -> None:
            nonlocal size
            parts.append(part)
            size += len(part)
            if size > limit:
                raise MalformedError

        marker = yield from self.until(finder, keep, consume=consume)
        if not marker:
            raise MalformedError
        return "".join(parts), marker


class Pushed:
    """A machine that text is pushed into."""

    def __init__(self, source: Source, steps: Step[None]) -> None:
        self._source = source
        self._steps = steps
        next(steps, None)

    def push(self, text: str) -> None:
        self._source.feed(text)
        next(self._steps, None)

    def finish(self) -> None:
        self._source.close()
        for _ in self._steps:
            raise AssertionError("a machine waits for text that cannot come")
