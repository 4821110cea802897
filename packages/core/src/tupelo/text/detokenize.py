"""Token ids to text, a few at a time, never cutting a character.

A character may be spread over several tokens, so a token may complete a character, begin one, or
do neither. What is incomplete waits; U+FFFD appears only for bytes that can no longer become a
character. The deltas concatenated are the one-shot decoding of all ids.
"""

import codecs
from collections.abc import Sequence
from itertools import islice

from tupelo.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
_UTF8 = codecs.getincrementaldecoder("utf-8")
_MAX_CHARACTER_TOKENS = 4
"""A character of UTF-8 has at most 4 bytes, so it is spread over at most 4 tokens with text."""


class IncrementalDetokenizer:
    """Turns the ids of one output into text as they come. One thread at a time.

    The prompt matters twice: the output may complete a character that the prompt began (it then
    belongs to the output, whole), and spaces are stripped only where a text begins.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt_ids_tail: Sequence[int] = (),
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        shown_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Begin after a prompt.

        Args:
            tokenizer: of the model.
            prompt_ids_tail: the prompt's ids, or its last few dozen.
            skip_special_tokens: special tokens have no text, but for ``shown_ids``.
            spaces_between_special_tokens: False takes out spaces that a decoder puts between two
                special tokens. Only decoders that join words with spaces (WordPiece) do.
        """
        skipped = tokenizer.special_ids - shown_ids if skip_special_tokens else frozenset[int]()
        self._steps: _ByteSteps | _WindowSteps
        if tokenizer.byte_rule is not None:
            self._steps = _ByteSteps(tokenizer, prompt_ids_tail, skipped)
        else:
            self._steps = _WindowSteps(
                tokenizer, prompt_ids_tail, skipped, spaces_between_special_tokens
            )

    def push(self, ids: Sequence[int]) -> str:
        """The text that ``ids`` add: amortised constant time a token."""
        return "".join([self._steps.step(token_id) for token_id in ids])

    def flush(self) -> str:
        """What is left at the end: U+FFFD for bytes that stayed incomplete, or nothing."""
        return self._steps.flush()


class _ByteSteps:
    """For tokenizers whose text is the concatenation of their tokens' bytes."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], skipped: frozenset[int]
    ) -> None:
        self._bytes_of = tokenizer.bytes_of
        self._first_bytes = tokenizer.first_bytes
        self._skipped = skipped
        self._decoder = _UTF8(errors="replace")
        tail = self._last_bytes(prompt)
        self._at_start = tail is None
        self._decoder.decode(tail or b"")
        self._prompt_is_cut = bool(self._decoder.getstate()[0])

    def step(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        if self._at_start:
            self._at_start = False
            return self._decoder.decode(self._first_bytes(token_id))
        return self._own(self._decoder.decode(self._bytes_of(token_id)))

    def flush(self) -> str:
        return self._own(self._decoder.decode(b"", True))

    def _last_bytes(self, prompt: Sequence[int]) -> bytes | None:
        """Bytes of the prompt's last four tokens with text; None if it shows no token at all."""
        pieces: list[bytes] = []
        shown = False
        for token_id in reversed(prompt):
            if token_id in self._skipped:
                continue
            shown = True
            piece = self._bytes_of(token_id)
            if piece:
                pieces.append(piece)
            if len(pieces) == _MAX_CHARACTER_TOKENS:
                break
        return b"".join(reversed(pieces)) if shown else None

    def _own(self, text: str) -> str:
        """``text`` without the U+FFFD that stands for bytes of the prompt."""
        if self._prompt_is_cut and text:
            self._prompt_is_cut = False
            return text.removeprefix(REPLACEMENT)
        return text


class _WindowSteps:
    """For other decoders: decode a short window with and without the new ids, and compare.

    Source: the prefix and read offsets of Hugging Face text-generation-inference.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], skipped: frozenset[int], spaces: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._joined = frozenset[int]() if spaces else tokenizer.special_ids
        shown = (i for i in reversed(prompt) if self._shows(i))
        self._window = list(islice(shown, _MAX_CHARACTER_TOKENS))[::-1]
        self._shown = self._decode(self._window)
        self._new = 0
        self._last = -1

    def step(self, token_id: int) -> str:
        if not self._shows(token_id):
            return ""
        self._window.append(token_id)
        self._new += 1
        text = self._decode(self._window)
        if text.endswith(REPLACEMENT) and self._new < _MAX_CHARACTER_TOKENS:
            return ""
        both_special = token_id in self._joined and self._last in self._joined
        self._last = token_id
        delta = self._advance(text)
        return delta.lstrip(" ") if both_special else delta

    def flush(self) -> str:
        return self._advance(self._decode(self._window))

    def _advance(self, text: str) -> str:
        delta = text[len(self._shown) :]
        self._window = self._window[-max(self._new, 1) :]
        self._shown = self._decode(self._window)
        self._new = 0
        return delta

    def _shows(self, token_id: int) -> bool:
        """Whether the token can be context: one without text would leave the next without any."""
        return token_id not in self._skipped and bool(self._tokenizer.bytes_of(token_id))

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode_unchecked(ids, skip_special_tokens=False)
