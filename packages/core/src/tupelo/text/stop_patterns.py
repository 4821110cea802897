"""Regular expressions that end a text, found as it grows, in time linear in its length.

Patterns are clients' own, so nothing that backtracks may run them: they are RE2's, which has no
backreferences and no lookaround. The only place that runs a client's pattern over text.
"""

from collections.abc import Sequence
from typing import Any

import re2

from tupelo.errors import InvalidRequest

WINDOW_BYTES = 4096
"""A match that is longer than this many bytes of UTF-8 may not be found."""

_MAX_MEMORY_BYTES = 1 << 20
"""Of one compiled pattern, its automaton included; RE2 turns to a slower linear way beyond."""


class StopPatterns:
    """Tells where a growing text first contains a match of one of some patterns.

    The match that is complete first, character by character, counts; of those complete at the same
    character, that of the first pattern. ``$`` matches wherever the text ends at the moment, so at
    every character. So nothing depends on how the text was split.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile.

        Raises:
            InvalidRequest: a pattern that RE2 does not take, or that is too large compiled.
        """
        self._patterns = [(text, _compile(text)) for text in dict.fromkeys(patterns) if text]
        self._any = _joined([text for text, _ in self._patterns])
        self._by_character = any(mark in text for text, _ in self._patterns for mark in _AT_END)
        self._tail = b""
        self._start = 0

    def feed(self, text: str) -> tuple[int, str] | None:
        """Take more text; where in it the first match ends (1 to its length), and its pattern."""
        if not text:
            return None
        data = self._tail + text.encode()
        if self._by_character or self._matches(data):
            size = len(self._tail)
            for count, char in enumerate(text, start=1):
                size += len(char.encode())
                found = self._matches(data[:size])
                if found:
                    return count, found
        self._keep(data)
        return None

    def _matches(self, data: bytes) -> str:
        """The first pattern that matches somewhere in ``data``, "" if none does."""
        if self._any is not None and self._any.search(data, self._start) is None:
            return ""
        found = (text for text, regex in self._patterns if regex.search(data, self._start))
        return next(found, "")

    def _keep(self, data: bytes) -> None:
        """Keep the end of what is known, and before it one character as context."""
        if len(data) > 2 * WINDOW_BYTES:
            cut = len(data) - WINDOW_BYTES
            while data[cut] & 0xC0 == 0x80:  # inside a character
                cut += 1
            self._start = 1
            while data[cut - self._start] & 0xC0 == 0x80:
                self._start += 1
            data = data[cut - self._start :]
        self._tail = data


_AT_END = ("$", r"\z", r"\b", r"\B")
"""What can match because the text ends: such a match may be gone when it goes on."""


def _joined(patterns: Sequence[str]) -> Any:
    """One pattern that matches where any does; None where they cannot be joined (an open quotation)
    or are too large together."""
    try:
        return _compile("|".join(f"(?:{text})" for text in patterns))
    except InvalidRequest:
        return None


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = _MAX_MEMORY_BYTES
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise InvalidRequest(
            f"stop_regex: {pattern!r:.100} is no regular expression of RE2 ({reason:.200}); it has "
            "neither lookaround nor backreferences",
            param="stop_regex",
        ) from None
    except UnicodeEncodeError:
        raise InvalidRequest(
            "stop_regex: holds an unpaired surrogate", param="stop_regex"
        ) from None
