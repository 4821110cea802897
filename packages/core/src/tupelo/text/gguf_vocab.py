"""Builds a tokenizer from the metadata of a GGUF file.

A GGUF file carries the vocabulary as parallel arrays (``tokenizer.ggml.tokens``, ``scores``,
``token_type``, ``merges``) and names the algorithm. Each algorithm becomes the `tokenizers`
pipeline that gives the same ids. What is not known is refused by name, never guessed.

Source: the GGUF specification (ggml ``docs/gguf.md``); defaults as in llama.cpp
``src/llama-vocab.cpp``.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from tupelo.errors import CheckpointError, UnsupportedModel
from tupelo.text.gguf_pre import PreRule, pre_rule
from tupelo.text.token_bytes import SPACE_MARK
from tupelo.text.tokenizer import TokenizerFacts, set_framing

_PREFIX = "tokenizer.ggml."
_TEMPLATE_KEY = "tokenizer.chat_template"
_NAMES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # spelled so in the format
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}
_SPM_DEFAULT_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
_END_TEXTS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "<end_of_utterance>",
)


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type``."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer that a GGUF file describes.

    Args:
        metadata: the file's key-value pairs, with arrays as lists or numpy arrays.

    Raises:
        UnsupportedModel: an algorithm or splitting rule without an implementation, by name.
        CheckpointError: an array is missing or does not fit the others.
    """
    model = str(metadata.get(f"{_PREFIX}model"))
    if model not in _BUILDERS:
        raise UnsupportedModel(
            f"tokenizer.ggml.model = {model!r} has no implementation here; "
            f"known: {', '.join(sorted(_BUILDERS))}"
        )
    if f"{_PREFIX}tokens" not in metadata:
        raise CheckpointError("the GGUF file names a tokenizer but holds no tokenizer.ggml.tokens")
    backend = _BUILDERS[model](metadata)
    _add_special(backend, metadata)
    if model != "bert":
        _frame(backend, metadata, adds_bos_by_default(metadata))
    return backend


def facts_from_gguf(metadata: Mapping[str, Any]) -> TokenizerFacts:
    """Named special tokens, end tokens and chat templates of a GGUF file."""
    tokens = _tokens(metadata)
    named = {}
    for name, key in _NAMES.items():
        token_id = _special_id(metadata, key)
        if token_id is not None:
            named[name] = tokens[token_id]
    templates = {}
    for key, value in metadata.items():
        if key == _TEMPLATE_KEY:
            templates["default"] = str(value)
        elif key.startswith(f"{_TEMPLATE_KEY}."):
            templates[key.removeprefix(f"{_TEMPLATE_KEY}.")] = str(value)
    return TokenizerFacts(
        special_tokens=named, eos_token_ids=_end_ids(metadata), chat_templates=templates
    )


def adds_bos_by_default(metadata: Mapping[str, Any]) -> bool:
    """Whether a text starts with BOS if the file does not say: by algorithm, then by rule."""
    if metadata[f"{_PREFIX}model"] == "gpt2":
        return _rule(metadata).add_bos
    return True


def conversion_is_slow(metadata: Mapping[str, Any]) -> bool:
    """Whether ``tokenizer_from_gguf`` has to derive merges, which takes seconds."""
    return metadata.get(f"{_PREFIX}model") == "llama"


# --- one builder for each algorithm ---------------------------------------------------------------


def _byte_pair(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """``gpt2`` and ``gemma4``: byte-pair merging with the merges in the file."""
    rule = _rule(metadata)
    tokens = _tokens(metadata)
    merges = [_split_merge(merge) for merge in metadata.get(f"{_PREFIX}merges", ())]
    if not merges:
        raise CheckpointError("the GGUF file's byte-pair tokenizer has no tokenizer.ggml.merges")
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    if rule.byte_level:
        backend = tokenizers.Tokenizer(
            models.BPE(vocab=_vocab(tokens), merges=merges, ignore_merges=rule.ignore_merges)
        )
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, last])
        backend.decoder = decoders.ByteLevel()
        return backend
    if rule.whole_newlines:
        merges = [*_newline_merges(tokens, merges), *merges]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=_vocab(tokens),
            merges=merges,
            ignore_merges=rule.ignore_merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token=_unknown(metadata, tokens),
        )
    )
    backend.normalizer = normalizers.Replace(" ", SPACE_MARK)
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.decoder = _space_mark_decoder(strip=False)
    return backend


def _sentencepiece(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """``llama``: SentencePiece byte-pair; the pair whose result scores highest merges first."""
    tokens = _tokens(metadata)
    if f"{_PREFIX}scores" not in metadata:
        raise CheckpointError("the GGUF file's SentencePiece tokenizer has no scores")
    scores = [float(score) for score in metadata[f"{_PREFIX}scores"]]
    if len(scores) != len(tokens):
        raise CheckpointError(
            f"tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens"
        )
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=_vocab(tokens),
            merges=merges_from_scores(tokens, scores, _types(metadata, len(tokens))),
            byte_fallback=True,
            fuse_unk=True,
            unk_token=_unknown(metadata, tokens),
        )
    )
    prefix = bool(metadata.get(f"{_PREFIX}add_space_prefix", True))
    spaces = normalizers.Replace(" ", SPACE_MARK)
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE_MARK), spaces]) if prefix else spaces
    )
    backend.decoder = _space_mark_decoder(strip=prefix)
    return backend


def _word_piece(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """``bert``: lower-cased WordPiece between [CLS] and [SEP].

    GGUF marks the *beginning* of words with a space mark; BERT's own vocabulary marks what
    continues a word with ``##``.
    """
    tokens = _tokens(metadata)
    types = _types(metadata, len(tokens))
    vocab: dict[str, int] = {}
    for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
            text = token
        elif token.startswith(SPACE_MARK):
            text = token[1:]
        else:
            text = f"##{token}"
        vocab.setdefault(text, token_id)
    unknown = _unknown(metadata, tokens) or "[UNK]"
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    first = _special_id(metadata, "bos_token_id")
    last = _special_id(metadata, "seperator_token_id")
    cls = (tokens[first], first) if first is not None else ("[CLS]", vocab.get("[CLS]", 0))
    sep = (tokens[last], last) if last is not None else ("[SEP]", vocab.get("[SEP]", 0))
    backend.post_processor = processors.BertProcessing(sep, cls)
    return backend


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], tokenizers.Tokenizer]] = {
    "gpt2": _byte_pair,
    "gemma4": _byte_pair,
    "llama": _sentencepiece,
    "bert": _word_piece,
}


def merges_from_scores(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
    """Merges in the order in which SentencePiece would apply them.

    Every way to make a token from two others is a merge; its rank is the score of the result, and
    among equal scores the vocabulary order. Special tokens neither merge nor come of merging.
    """
    ordinary = {TokenType.NORMAL, TokenType.UNUSED, TokenType.UNDEFINED}
    parts = {token for token, kind in zip(tokens, types, strict=True) if kind in ordinary}
    order = sorted(range(len(tokens)), key=lambda token_id: -scores[token_id])
    merges: list[tuple[str, str]] = []
    for token_id in order:
        token = tokens[token_id]
        if len(token) < 2 or types[token_id] not in ordinary:
            continue
        merges.extend(
            (token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in parts and token[cut:] in parts
        )
    return merges


# --- what the builders share --------------------------------------------------------------------


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    return [str(token) for token in metadata[f"{_PREFIX}tokens"]]


def _types(metadata: Mapping[str, Any], size: int) -> list[int]:
    types = [int(kind) for kind in metadata.get(f"{_PREFIX}token_type", ())]
    if not types:
        return [TokenType.NORMAL] * size
    if len(types) != size:
        raise CheckpointError(f"tokenizer.ggml.token_type has {len(types)} entries for {size}")
    return types


def _vocab(tokens: Sequence[str]) -> dict[str, int]:
    """Entry to id; of equal entries the first counts, as a table that is searched would do."""
    vocab: dict[str, int] = {}
    for token_id, token in enumerate(tokens):
        vocab.setdefault(token, token_id)
    return vocab


def _rule(metadata: Mapping[str, Any]) -> PreRule:
    if metadata[f"{_PREFIX}model"] == "gemma4":
        return pre_rule("gemma4")
    return pre_rule(str(metadata.get(f"{_PREFIX}pre", "default")))


def _split_merge(merge: str) -> tuple[str, str]:
    """``"a b"`` to its two halves; a half may begin with a space where bytes are not used."""
    cut = merge.find(" ", 1)
    if cut < 0:
        raise CheckpointError(f"tokenizer.ggml.merges holds {merge!r}, which is no pair")
    return merge[:cut], merge[cut + 1 :]


def _newline_merges(
    tokens: Sequence[str], merges: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Merges that make every run of newlines in the vocabulary reachable, one newline at a time."""
    runs = {token for token in tokens if token and not token.strip("\n")}
    known = set(merges)
    grown = [("\n" * (size - 1), "\n") for size in sorted(map(len, runs)) if size > 1]
    return [pair for pair in grown if pair[0] in runs and pair not in known]


def _special_id(metadata: Mapping[str, Any], key: str) -> int | None:
    """The id under ``key``, else the algorithm's default; an id outside the table is refused."""
    model = metadata.get(f"{_PREFIX}model")
    default = _SPM_DEFAULT_IDS.get(key) if model == "llama" else None
    value = metadata.get(f"{_PREFIX}{key}", default)
    if value is None or int(value) in (-1, 0xFFFFFFFF):  # both stand for "none" in the wild
        return None
    if key == "bos_token_id" and model == "gpt2" and not _rule(metadata).has_bos:
        return None
    size = len(metadata[f"{_PREFIX}tokens"])
    if not 0 <= int(value) < size:
        raise CheckpointError(f"tokenizer.ggml.{key} = {value} is outside the {size} tokens")
    return int(value)


def _unknown(metadata: Mapping[str, Any], tokens: Sequence[str]) -> str | None:
    token_id = _special_id(metadata, "unknown_token_id")
    return None if token_id is None else tokens[token_id]


def _space_mark_decoder(*, strip: bool) -> decoders.Decoder:
    steps: list[Any] = [
        decoders.Replace(SPACE_MARK, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if strip:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _add_special(backend: tokenizers.Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Control tokens are special; user-defined ones are matched in any text."""
    tokens = _tokens(metadata)
    types = _types(metadata, len(tokens))
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    named = {_special_id(metadata, key) for key in _NAMES.values()} - {None}
    special += [tokens[i] for i in sorted(i for i in named if i is not None)]
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in dict.fromkeys(special) if t]
    )
    taken = set(special)
    own = [t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.USER_DEFINED]
    backend.add_tokens([AddedToken(t, normalized=False) for t in own if t and t not in taken])


def _frame(backend: tokenizers.Tokenizer, metadata: Mapping[str, Any], adds_bos: bool) -> None:
    tokens = _tokens(metadata)
    bos = _special_id(metadata, "bos_token_id")
    eos = _special_id(metadata, "eos_token_id")
    before = bool(metadata.get(f"{_PREFIX}add_bos_token", adds_bos)) and bos is not None
    after = bool(metadata.get(f"{_PREFIX}add_eos_token", False)) and eos is not None
    set_framing(
        backend,
        [tokens[bos]] if before and bos is not None else [],
        [tokens[eos]] if after and eos is not None else [],
    )


def _end_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end a text: those that the file names, then control tokens known to end turns.

    Many files name only one end token, and their chat templates end turns with another.
    """
    found = [_special_id(metadata, key) for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
    tokens = _tokens(metadata)
    types = _types(metadata, len(tokens))
    by_text = {
        token: token_id
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED) and token in _END_TEXTS
    }
    if "<|return|>" in by_text:
        by_text.pop("<|end|>", None)  # harmony: it ends a message, and the next one follows
    found += [by_text[text] for text in _END_TEXTS if text in by_text]
    return tuple(dict.fromkeys(i for i in found if i is not None))
