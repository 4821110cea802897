"""What the metadata of a GGUF file says about its tokenizer, read with the format's defaults.

Source: the GGUF specification (ggml ``docs/gguf.md``); defaults as in llama.cpp
``src/llama-vocab.cpp``.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from tupelo.errors import CheckpointError
from tupelo.text.gguf_pre import PreRule, pre_rule
from tupelo.text.tokenizer import TokenizerFacts

PREFIX = "tokenizer.ggml."
_TEMPLATE_KEY = "tokenizer.chat_template"
NAMED_IDS = {
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


def facts_from_gguf(metadata: Mapping[str, Any]) -> TokenizerFacts:
    """Named special tokens, end tokens and chat templates of a GGUF file."""
    tokens = token_list(metadata)
    named = {}
    for name, key in NAMED_IDS.items():
        token_id = special_id(metadata, key)
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
    if metadata[f"{PREFIX}model"] == "gpt2":
        return splitting_rule(metadata).add_bos
    return True


def token_list(metadata: Mapping[str, Any]) -> list[str]:
    """The vocabulary, in order of id."""
    return [str(token) for token in metadata[f"{PREFIX}tokens"]]


def token_types(metadata: Mapping[str, Any], size: int) -> list[int]:
    """A ``TokenType`` for each of ``size`` tokens; all are normal if the file does not say."""
    types = [int(kind) for kind in metadata.get(f"{PREFIX}token_type", ())]
    if not types:
        return [TokenType.NORMAL] * size
    if len(types) != size:
        raise CheckpointError(f"tokenizer.ggml.token_type has {len(types)} entries for {size}")
    return types


def splitting_rule(metadata: Mapping[str, Any]) -> PreRule:
    """How texts are split before merging, for byte-pair tokenizers."""
    if metadata[f"{PREFIX}model"] == "gemma4":
        return pre_rule("gemma4")
    return pre_rule(str(metadata.get(f"{PREFIX}pre", "default")))


def special_id(metadata: Mapping[str, Any], key: str) -> int | None:
    """The id under ``key``, else the algorithm's default; an id outside the table is refused."""
    model = metadata.get(f"{PREFIX}model")
    default = _SPM_DEFAULT_IDS.get(key) if model == "llama" else None
    value = metadata.get(f"{PREFIX}{key}", default)
    if value is None or int(value) in (-1, 0xFFFFFFFF):  # both stand for "none" in the wild
        return None
    if key == "bos_token_id" and model == "gpt2" and not splitting_rule(metadata).has_bos:
        return None
    size = len(metadata[f"{PREFIX}tokens"])
    if not 0 <= int(value) < size:
        raise CheckpointError(f"tokenizer.ggml.{key} = {value} is outside the {size} tokens")
    return int(value)


def _end_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end a text: those that the file names, then control tokens known to end turns.

    Many files name only one end token, and their chat templates end turns with another.
    """
    found = [special_id(metadata, key) for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
    tokens = token_list(metadata)
    types = token_types(metadata, len(tokens))
    by_text = {
        token: token_id
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED) and token in _END_TEXTS
    }
    if "<|return|>" in by_text:
        by_text.pop("<|end|>", None)  # harmony: it ends a message, and the next one follows
    found += [by_text[text] for text in _END_TEXTS if text in by_text]
    return tuple(dict.fromkeys(i for i in found if i is not None))
