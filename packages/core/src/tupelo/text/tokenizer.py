"""The tokenizer of a model: text to token ids and back.

``load_tokenizer`` reads a Hugging Face folder or a GGUF file; the result no longer knows which.
Encoding is the `tokenizers` library's, decoding is this package's own (``token_bytes``), and both
may be used from several threads at once. Imports no torch.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path

import tokenizers
from tokenizers import processors

from tupelo.errors import CheckpointError, InvalidRequest, TemplateError
from tupelo.text.token_bytes import byte_rule

NO_TOKENIZER = "the model has no tokenizer of its own; give one with --tokenizer"


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What a checkpoint says beside its vocabulary.

    Attributes:
        special_tokens: named tokens as chat templates see them, such as ``bos_token``.
        eos_token_ids: every id that ends a text, the model's main one first.
        chat_templates: by name; the usual one is called ``default``.
    """

    special_tokens: Mapping[str, str] = field(default_factory=dict)
    eos_token_ids: tuple[int, ...] = ()
    chat_templates: Mapping[str, str] = field(default_factory=dict)


class Tokenizer:
    """Text to token ids and back; immutable once made, safe for concurrent use."""

    def __init__(self, backend: tokenizers.Tokenizer, facts: TokenizerFacts) -> None:
        """Take over ``backend`` (which nobody else may change afterwards)."""
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._plain: tokenizers.Tokenizer | None = None
        self._lock = threading.Lock()
        self._bytes: dict[int, bytes] = {}
        added = backend.get_added_tokens_decoder()
        size = backend.get_vocab_size(with_added_tokens=True)
        self.vocab_size: int = max(size, max(added, default=-1) + 1)
        self.special_ids: frozenset[int] = frozenset(i for i, t in added.items() if t.special)
        self.special_tokens: dict[str, str] = dict(facts.special_tokens)
        self.eos_token_ids: tuple[int, ...] = facts.eos_token_ids
        self.chat_templates: dict[str, str] = dict(facts.chat_templates)
        self.bos_token: str | None = self.special_tokens.get("bos_token")
        self.eos_token: str | None = self.special_tokens.get("eos_token")
        self.bos_token_id: int | None = (
            None if self.bos_token is None else backend.token_to_id(self.bos_token)
        )
        framing = backend.encode("").ids
        self.adds_bos: bool = self.bos_token_id is not None and self.bos_token_id in framing[:1]
        self.byte_rule = byte_rule(backend.decoder)

    def encode(
        self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of ``text``.

        Args:
            text: any text; unpaired surrogates are refused.
            add_special_tokens: add what the model expects around a text (usually a leading BOS).
            parse_special: read special tokens written in the text as such; False takes them for
                ordinary text, which is what untrusted text wants.

        Raises:
            InvalidRequest: the text cannot be written in UTF-8.
        """
        return self.encode_batch(
            [text], add_special_tokens=add_special_tokens, parse_special=parse_special
        )[0]

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        parse_special: bool = True,
    ) -> list[list[int]]:
        """``encode`` for several texts."""
        for text in texts:
            _check_text(text)
        backend = self._backend if parse_special else self._plain_backend()
        if len(texts) == 1:
            return [backend.encode(texts[0], add_special_tokens=add_special_tokens).ids]
        found = backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in found]

    def frame(
        self, first: str, second: str | None = None, *, max_tokens: int = 0
    ) -> tuple[list[int], int]:
        """Ids of a text, or of a pair of texts, between the tokens that the model wants around
        them; special tokens written in a text are ordinary text.

        Args:
            max_tokens: cut the texts, the longer one first, so that there are no more ids than
                this; 0 means no limit.

        Returns:
            The ids, and where the second segment begins: 0 where the model has but one.

        Raises:
            InvalidRequest: a text that cannot be written in UTF-8, or a limit without room.
        """
        backend = self._plain_backend()
        texts = [first] if second is None else [first, second]
        for text in texts:
            _check_text(text)
        parts = [backend.encode(text, add_special_tokens=False) for text in texts]
        if max_tokens:
            room = max_tokens - backend.num_special_tokens_to_add(second is not None)
            if room < len(parts):
                raise InvalidRequest(
                    f"{max_tokens} tokens leave no room for text beside special tokens",
                    param="truncate_prompt_tokens",
                )
            for part, size in zip(parts, _shares([len(p) for p in parts], room), strict=True):
                part.truncate(size)
        framed = backend.post_process(parts[0], None if second is None else parts[1])
        types = framed.type_ids
        return framed.ids, types.index(1) if 1 in types else 0

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        Raises:
            InvalidRequest: an id is not in the vocabulary's range.
        """
        for token_id in ids:
            self._check(token_id)
        return self.decode_unchecked(ids, skip_special_tokens=skip_special_tokens)

    def decode_unchecked(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """``decode`` for ids that the model made: one without an entry (padding) has no text."""
        rule = self.byte_rule
        if rule is None:
            known = [int(i) for i in ids if 0 <= i < self.vocab_size]
            return self._backend.decode(known, skip_special_tokens=skip_special_tokens)
        if skip_special_tokens:
            ids = [i for i in ids if i not in self.special_ids]
        if not ids:
            return ""
        pieces = [self.bytes_of(i) for i in ids]
        pieces[0] = self.first_bytes(ids[0])
        return b"".join(pieces).decode("utf-8", "replace")

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary entry of an id, None for a hole in the vocabulary.

        Raises:
            InvalidRequest: the id is not in the vocabulary's range.
        """
        self._check(token_id)
        return self._backend.id_to_token(int(token_id))

    def token_to_id(self, token: str) -> int | None:
        """The id of a vocabulary entry (not of a text), None if there is no such entry."""
        return self._backend.token_to_id(token)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; they may be part of a character.

        Raises:
            InvalidRequest: the id is not in the vocabulary's range.
        """
        self._check(token_id)
        return self.bytes_of(token_id)

    def bytes_of(self, token_id: int) -> bytes:
        """``token_bytes`` for an id that the model made: nothing where there is no entry."""
        found = self._bytes.get(token_id)
        if found is None:
            token_id = int(token_id)  # numpy's integers are welcome, the library takes its own
            token = self._backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
            if token is None:
                found = b""
            elif self.byte_rule is None:
                found = self._backend.decode([token_id], skip_special_tokens=False).encode()
            else:
                found = self.byte_rule.to_bytes(token)
            self._bytes[token_id] = found
        return found

    def first_bytes(self, token_id: int) -> bytes:
        """``bytes_of`` where the token opens a text with nothing before it."""
        if self.byte_rule is None or not 0 <= token_id < self.vocab_size:
            return self.bytes_of(token_id)
        token = self._backend.id_to_token(int(token_id))
        return b"" if token is None else self.byte_rule.first(token)

    def token_text(self, token_id: int) -> str:
        """One token alone as text, for lists of alternatives; half a character shows as U+FFFD."""
        return self.bytes_of(token_id).decode("utf-8", "replace")

    @cached_property
    def longest_token(self) -> int:
        """Characters of the vocabulary's longest entry. A token stands for no more of them, but
        for spaces that some tokenizers drop, and words that they do not know."""
        return max(map(len, self._backend.get_vocab()), default=1)

    @property
    def chat_template(self) -> str | None:
        """The model's usual chat template, None if it brings none."""
        return self.chat_templates.get("default")

    def template_for(self, *, tools: bool = False, name: str | None = None) -> str:
        """The chat template to use: the named one, else ``tool_use`` with tools, else the default.

        Raises:
            TemplateError: there is no such template.
        """
        if name is not None and name not in self.chat_templates:
            known = ", ".join(sorted(self.chat_templates)) or "none"
            raise TemplateError(f"the model has no chat template named {name!r}; it has: {known}")
        if name is not None:
            return self.chat_templates[name]
        if tools and "tool_use" in self.chat_templates:
            return self.chat_templates["tool_use"]
        if self.chat_template is None:
            raise TemplateError(
                "this model has no chat template, so it cannot chat; give one when starting "
                "the server, or use text completion"
            )
        return self.chat_template

    def _check(self, token_id: int) -> None:
        if not isinstance(token_id, Integral) or not 0 <= token_id < self.vocab_size:
            raise InvalidRequest(
                f"token id {token_id!r} is outside the vocabulary (0 to {self.vocab_size - 1})",
                param="ids",
            )

    def _plain_backend(self) -> tokenizers.Tokenizer:
        """A second backend that takes special tokens for text.

        `tokenizers` has that as a switch on the object, which threads would fight over.
        """
        with self._lock:
            if self._plain is None:
                plain = tokenizers.Tokenizer.from_str(self._backend.to_str())
                plain.encode_special_tokens = True
                self._plain = plain
        return self._plain


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each text to keep: all of it, or of the longer one first less."""
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    half, short = room // 2, min(lengths)
    if short <= half:
        return [length if length == short else room - short for length in lengths]
    return [room - half, half]


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"the text holds an unpaired surrogate at character {error.start}, which stands for "
            "no character; send valid Unicode",
            param="text",
        ) from error


def set_framing(backend: tokenizers.Tokenizer, before: list[str], after: list[str]) -> None:
    """Make ``backend`` put these special tokens before and after a text."""
    ids = {token: backend.token_to_id(token) for token in (*before, *after)}
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, "$B:1"],
        special_tokens=list(ids.items()),
    )


def load_tokenizer(path: str | Path, *, cache_dir: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a model on disk.

    Args:
        path: a Hugging Face folder, or a ``.gguf`` file.
        cache_dir: where slow GGUF conversions are kept; None means the user's cache folder.

    Raises:
        CheckpointError: nothing usable is there.
        UnsupportedModel: a kind of tokenizer that has no implementation here, by name.
    """
    if path == "":
        raise CheckpointError(NO_TOKENIZER)
    path = Path(path)
    if path.is_dir():
        from tupelo.text.hf_folder import read_folder

        return Tokenizer(*read_folder(path))
    if path.suffix == ".gguf" and path.is_file():
        from tupelo.text.gguf_file import read_gguf

        return Tokenizer(*read_gguf(path, cache_dir=None if cache_dir is None else Path(cache_dir)))
    raise CheckpointError(
        f"no tokenizer at {path.name!r}: expected a model folder with tokenizer.json, "
        "or a file that ends in .gguf"
    )
