"""What a grammar needs to know of a tokenizer: the bytes of every token, and canonical encoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tupelo.errors import InvalidRequest

_SENTINEL = "\x02"
"""A character that no rule joins to its neighbours; in front of a text it takes the place of what
was generated before, so that nothing is added that belongs at the beginning of a text only."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The model's tokens as bytes.

    Attributes:
        tokens: one a logit; empty for ids that stand for nothing.
        special_ids: ids that no text may spell. eos_ids: ids that end a text; at least one.
        encode: canonical ids of a text that stands in the middle of another.
    """

    tokens: tuple[bytes, ...]
    special_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]
    encode: Callable[[str], list[int]]


class TokenBytes(Protocol):
    """What is needed of ``tupelo.text.Tokenizer``, which stands beside this package."""

    byte_rule: Any
    vocab_size: int
    special_ids: frozenset[int]
    eos_token_ids: tuple[int, ...]

    def bytes_of(self, token_id: int) -> bytes: ...

    def encode(
        self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]: ...


def read_vocabulary(
    tokenizer: TokenBytes, vocab_size: int, eos_ids: Sequence[int] = ()
) -> Vocabulary:
    """The vocabulary of a model.

    Args:
        vocab_size: width of the model's logits, which may be more or less than the tokenizer has.
        eos_ids: the model's end tokens, beside the tokenizer's.

    Raises:
        InvalidRequest: the tokenizer's tokens are not plain pieces of text, or nothing ends a text.
    """
    if tokenizer.byte_rule is None:
        raise InvalidRequest(
            "this model's tokenizer changes text as it puts tokens together, so its output cannot "
            "be constrained"
        )
    known = min(vocab_size, tokenizer.vocab_size)
    ends = tuple(i for i in dict.fromkeys((*eos_ids, *tokenizer.eos_token_ids)) if i < known)
    if not ends:
        raise InvalidRequest("this model has no end token, so its output cannot be constrained")
    tokens = [tokenizer.bytes_of(i) for i in range(known)] + [b""] * (vocab_size - known)
    special = {i for i in tokenizer.special_ids if i < known} | set(ends)
    return Vocabulary(
        tokens=tuple(tokens),
        special_ids=tuple(sorted(special)),
        eos_ids=ends,
        encode=_middle_encoder(tokenizer),
    )


def greedy_encoder(tokens: Sequence[bytes]) -> Callable[[str], list[int]]:
    """Longest match first: right bytes, though rarely the ids that a tokenizer would choose."""
    ids = {token: i for i, token in reversed(list(enumerate(tokens))) if token}
    longest = max(map(len, ids), default=0)

    def encode(text: str) -> list[int]:
        data, found, start = text.encode(), list[int](), 0
        while start < len(data):
            for stop in range(min(len(data), start + longest), start, -1):
                token = ids.get(data[start:stop])
                if token is not None:
                    found.append(token)
                    start = stop
                    break
            else:
                return found
        return found

    return encode


def _middle_encoder(tokenizer: TokenBytes) -> Callable[[str], list[int]]:
    def plain(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False, parse_special=False)

    before = plain(_SENTINEL)

    def encode(text: str) -> list[int]:
        ids = plain(_SENTINEL + text)
        if ids[: len(before)] == before:
            tail = ids[len(before) :]
            if b"".join(map(tokenizer.bytes_of, tail)) == text.encode():
                return tail
        return plain(text)

    return encode
