"""From a vocabulary entry to the bytes that it stands for.

Almost every generative tokenizer decodes by concatenating bytes, one piece per token, in one of
two families. Knowing the rule turns detokenization into table look-ups and a streaming UTF-8
decoder. A decoder outside the two families yields no rule; ``detokenize`` then asks `tokenizers`.

Source: the decoders of the `tokenizers` library (ByteLevel, ByteFallback, Replace, Strip,
Metaspace), whose results these rules reproduce.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Protocol, cast

SPACE_MARK = "\u2581"


class StartRule(Enum):
    """What happens to the space marks at the very beginning of a text."""

    KEEP = "keep"
    STRIP_ONE = "strip one space of the text"
    DROP_MARKS = "drop the space marks of the first token"


@dataclass(frozen=True)
class ByteRule:
    """How tokens become bytes.

    Attributes:
        to_bytes: vocabulary entry to bytes; concatenating the results gives the text in UTF-8.
        start: what is done at the beginning of a text that has nothing before it.
    """

    to_bytes: Callable[[str], bytes]
    start: StartRule

    def first(self, token: str) -> bytes:
        """Bytes of ``token`` where it opens the text."""
        if self.start is StartRule.DROP_MARKS:
            return self.to_bytes(token.replace(SPACE_MARK, ""))
        piece = self.to_bytes(token)
        if self.start is StartRule.STRIP_ONE:
            return piece.removeprefix(b" ")
        return piece


class _HasState(Protocol):
    def __getstate__(self) -> bytes: ...


def byte_rule(decoder: object | None) -> ByteRule | None:
    """The rule of a `tokenizers` decoder, or None where its text is no plain concatenation."""
    if decoder is None:
        return None
    spec = json.loads(cast("_HasState", decoder).__getstate__())
    steps: list[dict[str, Any]] = spec["decoders"] if spec["type"] == "Sequence" else [spec]
    kinds = [step["type"] for step in steps]
    if kinds in (["ByteLevel"], ["ByteLevel", "Fuse"]):
        return ByteRule(byte_level_bytes, StartRule.KEEP)
    start = StartRule.KEEP
    if kinds and kinds[-1] == "Strip" and "Fuse" in kinds:
        strip = steps.pop()
        if (strip["content"], strip["start"], strip["stop"]) != (" ", 1, 0):
            return None
        start = StartRule.STRIP_ONE
    for step in steps:
        if step["type"] == "Metaspace":
            if step["replacement"] != SPACE_MARK:
                return None
            if step.get("prepend_scheme", "always") != "never":
                start = StartRule.DROP_MARKS
        elif step["type"] == "Replace":
            if step["pattern"] != {"String": SPACE_MARK} or step["content"] != " ":
                return None
        elif step["type"] not in ("ByteFallback", "Fuse"):
            return None
    if not {"Metaspace", "Replace"} & {step["type"] for step in steps}:
        return None
    return ByteRule(
        fallback_bytes if "ByteFallback" in kinds else _space_mark_bytes,
        start,
    )


def byte_level_bytes(token: str) -> bytes:
    """Bytes of a byte-level (GPT-2) entry; an entry outside that alphabet is plain text."""
    alphabet = byte_of_char()
    try:
        return bytes([alphabet[char] for char in token])
    except KeyError:
        return token.encode("utf-8", "replace")


def fallback_bytes(token: str) -> bytes:
    """Bytes of a SentencePiece entry: ``<0xAB>`` is one byte, a space mark is a space."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes.fromhex(token[3:5])
        except ValueError:
            pass  # looks like a byte token and is not one: plain text
    return _space_mark_bytes(token)


def _space_mark_bytes(token: str) -> bytes:
    return token.replace(SPACE_MARK, " ").encode("utf-8", "replace")


@cache
def byte_of_char() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, other bytes for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(value): value for value in printable}
    others = [value for value in range(256) if chr(value) not in table]
    table.update({chr(256 + rank): value for rank, value in enumerate(others)})
    return table
