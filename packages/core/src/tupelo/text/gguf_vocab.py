"""Builds a tokenizer from the metadata of a GGUF file.

A GGUF file carries the vocabulary as parallel arrays (``tokenizer.ggml.tokens``, ``scores``,
``token_type``, ``merges``) and names the algorithm. Each algorithm becomes the `tokenizers`
pipeline that gives the same ids. What is not known is refused by name, never guessed.

Source: the GGUF specification (ggml ``docs/gguf.md``); defaults as in llama.cpp
``src/llama-vocab.cpp``.
"""

from collections.abc import Callable, Mapping, Sequence
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
from tupelo.text.gguf_facts import (
    NAMED_IDS,
    PREFIX,
    TokenType,
    adds_bos_by_default,
    special_id,
    splitting_rule,
    token_list,
    token_types,
)
from tupelo.text.token_bytes import SPACE_MARK
from tupelo.text.tokenizer import set_framing


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer that a GGUF file describes.

    Args:
        metadata: the file's key-value pairs, with arrays as lists or numpy arrays.

    Raises:
        UnsupportedModel: an algorithm or splitting rule without an implementation, by name.
        CheckpointError: an array is missing or does not fit the others.
    """
    model = str(metadata.get(f"{PREFIX}model"))
    if model not in _BUILDERS:
        raise UnsupportedModel(
            f"tokenizer.ggml.model = {model!r} has no implementation here; "
            f"known: {', '.join(sorted(_BUILDERS))}"
        )
    if f"{PREFIX}tokens" not in metadata:
        raise CheckpointError("the GGUF file names a tokenizer but holds no tokenizer.ggml.tokens")
    backend = _BUILDERS[model](metadata)
    _add_special(backend, metadata)
    if model != "bert":
        _frame(backend, metadata, adds_bos_by_default(metadata))
    return backend


def conversion_is_slow(metadata: Mapping[str, Any]) -> bool:
    """Whether ``tokenizer_from_gguf`` has to derive merges, which takes seconds."""
    return metadata.get(f"{PREFIX}model") == "llama"


# --- one builder for each algorithm ---------------------------------------------------------------


def _byte_pair(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """``gpt2`` and ``gemma4``: byte-pair merging with the merges in the file."""
    rule = splitting_rule(metadata)
    tokens = token_list(metadata)
    merges = [_split_merge(merge) for merge in metadata.get(f"{PREFIX}merges", ())]
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
    tokens = token_list(metadata)
    if f"{PREFIX}scores" not in metadata:
        raise CheckpointError("the GGUF file's SentencePiece tokenizer has no scores")
    scores = [float(score) for score in metadata[f"{PREFIX}scores"]]
    if len(scores) != len(tokens):
        raise CheckpointError(
            f"tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens"
        )
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=_vocab(tokens),
            merges=merges_from_scores(tokens, scores, token_types(metadata, len(tokens))),
            byte_fallback=True,
            fuse_unk=True,
            unk_token=_unknown(metadata, tokens),
        )
    )
    prefix = bool(metadata.get(f"{PREFIX}add_space_prefix", True))
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
    tokens = token_list(metadata)
    types = token_types(metadata, len(tokens))
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
    first = special_id(metadata, "bos_token_id")
    last = special_id(metadata, "seperator_token_id")
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


def _vocab(tokens: Sequence[str]) -> dict[str, int]:
    """Entry to id; of equal entries the first counts, as a table that is searched would do."""
    vocab: dict[str, int] = {}
    for token_id, token in enumerate(tokens):
        vocab.setdefault(token, token_id)
    return vocab


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


def _unknown(metadata: Mapping[str, Any], tokens: Sequence[str]) -> str | None:
    token_id = special_id(metadata, "unknown_token_id")
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
    tokens = token_list(metadata)
    types = token_types(metadata, len(tokens))
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    named = {special_id(metadata, key) for key in NAMED_IDS.values()} - {None}
    special += [tokens[i] for i in sorted(i for i in named if i is not None)]
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in dict.fromkeys(special) if t]
    )
    taken = set(special)
    own = [t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.USER_DEFINED]
    backend.add_tokens([AddedToken(t, normalized=False) for t in own if t and t not in taken])


def _frame(backend: tokenizers.Tokenizer, metadata: Mapping[str, Any], adds_bos: bool) -> None:
    tokens = token_list(metadata)
    bos = special_id(metadata, "bos_token_id")
    eos = special_id(metadata, "eos_token_id")
    before = bool(metadata.get(f"{PREFIX}add_bos_token", adds_bos)) and bos is not None
    after = bool(metadata.get(f"{PREFIX}add_eos_token", False)) and eos is not None
    set_framing(
        backend,
        [tokens[bos]] if before and bos is not None else [],
        [tokens[eos]] if after and eos is not None else [],
    )
