"""The text of one output: detokenized, ended by what stops it, and split into pieces a token.

Nothing that may turn out to be the beginning of a stop string is given out before that is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tupelo.text.detokenize import IncrementalDetokenizer
from tupelo.text.stop_patterns import StopPatterns
from tupelo.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What some ids added.

    Attributes:
        text: new text; it may lag behind the ids.
        num_tokens: how many of the ids count: all, or those up to and including the one that
            completed a stop string.
        matched_stop: the stop string or pattern that ended the text, None while it goes on.
    """

    text: str
    num_tokens: int
    matched_stop: str | None = None


class TextStream:
    """Ids of one output in, text out. One thread at a time.

    Of several stop strings the one that is complete first, character by character, ends the text;
    of those complete at the same character, the longest. So the text does not depend on how it
    was split into tokens or steps. Stop patterns are treated alike (see ``StopPatterns``), but what
    they match stays in the text; at the same character a stop string wins. An id that stopped the
    generation (an end token, a stop token) is text like any other: leave it out, or rely on
    ``skip_special_tokens``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: tuple[str, ...] = (),
        stop_regex: tuple[str, ...] = (),
        no_stop_trim: bool = False,
        prompt_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        min_new_tokens: int = 0,
        shown_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Begin after a prompt.

        Args:
            tokenizer: of the model.
            stop: strings that end the text; empty ones are ignored.
            stop_regex: patterns that end it, in RE2's syntax; empty ones are ignored.
            no_stop_trim: keep the stop string in the text.
            prompt_ids: the prompt; only its end is looked at.
            skip_special_tokens, spaces_between_special_tokens, shown_ids: see
                ``IncrementalDetokenizer``.
            min_new_tokens: text of fewer tokens than this is not searched for what would end it.

        Raises:
            InvalidRequest: a pattern that RE2 does not take.
        """
        self._detokenizer = IncrementalDetokenizer(
            tokenizer,
            prompt_ids_tail=prompt_ids,
            skip_special_tokens=skip_special_tokens,
            spaces_between_special_tokens=spaces_between_special_tokens,
            shown_ids=shown_ids,
        )
        self._finders = [_Finder(text) for text in dict.fromkeys(stop) if text]
        self._patterns = StopPatterns(stop_regex) if any(stop_regex) else None
        self._searches = bool(self._finders or self._patterns)
        self._no_stop_trim = no_stop_trim
        self._min_new_tokens = min_new_tokens
        self._held = ""
        self._finished = False
        self.num_tokens = 0
        self.matched_stop: str | None = None

    def push(self, ids: Sequence[int]) -> TextDelta:
        """Take the next ids; after the end nothing counts any more."""
        if self._finished:
            return TextDelta("", 0, self.matched_stop)
        if not self._searches:
            self.num_tokens += len(ids)
            return TextDelta(self._detokenizer.push(ids), len(ids))
        given = []
        for count, token_id in enumerate(ids, start=1):
            self.num_tokens += 1
            given.append(self._take(self._detokenizer.push((token_id,))))
            if self.matched_stop is not None:
                return TextDelta("".join(given), count, self.matched_stop)
        return TextDelta("".join(given), len(ids))

    def finish(self) -> str:
        """Give out what was held back, at the end of the output; nothing after what ended it.

        The last bytes may themselves complete a stop string: ``matched_stop`` tells.
        """
        if self._finished:
            return ""
        text = (
            self._take(self._detokenizer.flush()) if self._searches else self._detokenizer.flush()
        )
        self._finished = True
        held, self._held = self._held, ""
        return text + held

    def _take(self, text: str) -> str:
        """Add ``text`` to what is held back; return what may go out."""
        if self.num_tokens < self._min_new_tokens:
            return text
        limit, pattern = len(text), ""
        if self._patterns is not None:
            limit, pattern = self._patterns.feed(text) or (limit, pattern)
        for index, char in enumerate(text[:limit]):
            complete = [finder.text for finder in self._finders if finder.feed(char)]
            if complete:
                return self._cut(self._held + text[: index + 1], max(complete, key=len))
        if pattern:
            return self._end(self._held + text[:limit], pattern)
        text = self._held + text
        keep = max((finder.matched for finder in self._finders), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _cut(self, text: str, stop: str) -> str:
        """End the output at the string ``stop``, with which ``text`` ends."""
        return self._end(text if self._no_stop_trim else text[: len(text) - len(stop)], stop)

    def _end(self, text: str, matched: str) -> str:
        self._finished = True
        self._held = ""
        self.matched_stop = matched
        return text


class _Finder:
    """Finds one string in a stream of characters in linear time.

    ``matched`` is the length of the longest end of the stream that begins the string.
    Source: Knuth, Morris, Pratt, Fast pattern matching in strings (1977).
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._shorter = [0] * len(text)
        size = 0
        for end in range(1, len(text)):
            while size and text[end] != text[size]:
                size = self._shorter[size - 1]
            size += text[end] == text[size]
            self._shorter[end] = size

    def feed(self, char: str) -> bool:
        """Take one character; tell whether the string is now complete."""
        size = self.matched
        while size and self.text[size] != char:
            size = self._shorter[size - 1]
        self.matched = size + (self.text[size] == char)
        return self.matched == len(self.text)


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """One token as log-probability lists show it.

    Attributes:
        text: what the token added; empty while a character is incomplete, and the whole character
            at the token that completes it.
        raw: the token's own bytes, perhaps part of a character.
        offset: where ``text`` begins in the output, in characters.
    """

    text: str
    raw: bytes
    offset: int


class TokenPieces:
    """Gives each id its piece of the text; the pieces concatenated are the text.

    Bytes left incomplete at the end belong to no piece: ``TextStream.finish`` has their U+FFFD.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        shown_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Begin after a prompt, with the options of the ``TextStream`` beside it."""
        self._tokenizer = tokenizer
        self._detokenizer = IncrementalDetokenizer(
            tokenizer,
            prompt_ids_tail=prompt_ids,
            skip_special_tokens=skip_special_tokens,
            shown_ids=shown_ids,
        )
        self._offset = 0

    def push(self, ids: Sequence[int]) -> list[TokenPiece]:
        """The pieces of the next ids, one for each."""
        pieces = []
        for token_id in ids:
            text = self._detokenizer.push((token_id,))
            pieces.append(TokenPiece(text, self._tokenizer.bytes_of(token_id), self._offset))
            self._offset += len(text)
        return pieces
