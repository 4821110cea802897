"""Reads the tokenizer of a Hugging Face folder: vocabulary, special tokens, chat templates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tupelo.checkpoint.fields import Fields, read_json, shown
from tupelo.errors import CheckpointError, UnsupportedModel
from tupelo.text.tokenizer import TokenizerFacts, set_framing

_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_OTHER_FORMATS = {
    "tokenizer.model": "SentencePiece",
    "tekken.json": "Tekken",
    "tiktoken.model": "tiktoken",
    "vocab.json": "BPE vocab.json + merges.txt",
    "vocab.txt": "WordPiece vocab.txt",
}


def read_folder(folder: Path) -> tuple[tokenizers.Tokenizer, TokenizerFacts]:
    """The tokenizer in ``folder``.

    Raises:
        CheckpointError: a file is missing or broken.
        UnsupportedModel: the folder has only a format that is not read here.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise _without_tokenizer_json(folder)
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for every broken file
        raise CheckpointError(f"tokenizer.json cannot be read: {error}") from error
    config = _read_json(folder / "tokenizer_config.json")
    special_map = _read_json(folder / "special_tokens_map.json")
    _add_tokens(backend, config)
    named = _named_tokens(config, special_map)
    missing = [t for t in named.values() if backend.token_to_id(t) is None]
    if missing:
        backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in missing])
    if "add_bos_token" in config or "add_eos_token" in config:
        _frame(backend, config, named)
    facts = TokenizerFacts(
        special_tokens=named,
        eos_token_ids=_eos_ids(backend, named, folder),
        chat_templates=_chat_templates(config, folder),
    )
    return backend, facts


def _without_tokenizer_json(folder: Path) -> CheckpointError:
    for name, kind in _OTHER_FORMATS.items():
        if (folder / name).is_file():
            return UnsupportedModel(
                f"the folder has a {kind} tokenizer ({name}) but no tokenizer.json, which is the "
                "only format read from folders; make one with transformers: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
    return CheckpointError(f"no tokenizer.json in {folder.name!r}; is the download complete?")


def _read_json(file: Path) -> dict[str, Any]:
    """The object in ``file``; an absent file is an empty object."""
    return read_json(file) if file.exists() else {}


def _content(token: Any) -> str | None:
    """A token's text; checkpoints write it as a string or as an object with ``content``."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _named_tokens(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, str]:
    """bos_token and its kin; tokenizer_config.json wins over the older special_tokens_map.json."""
    named = {}
    for name in _NAMED:
        text = _content(config[name] if name in config else special_map.get(name))
        if text is not None:
            named[name] = text
    return named


def _add_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add the entries of ``added_tokens_decoder`` that tokenizer.json lacks, in order of id."""
    known = backend.get_added_tokens_decoder()
    fields = Fields(config, "tokenizer_config.json")
    entries = fields.section("added_tokens_decoder").values
    if not all(key.isdecimal() for key in entries):
        raise fields.error("added_tokens_decoder", "an object of tokens by their ids")
    for token_id, entry in sorted((int(key), value) for key, value in entries.items()):
        text = _content(entry)
        if token_id in known or text is None:
            continue
        said = entry if isinstance(entry, Mapping) else {}
        flags = {
            name: bool(said.get(name, False))
            for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        backend.add_tokens([AddedToken(text, **flags)])
        if backend.token_to_id(text) != token_id:
            raise CheckpointError(
                f"tokenizer_config.json gives {text!r} the id {token_id}, which does not follow "
                "the vocabulary of tokenizer.json; the two files do not belong together"
            )


def _frame(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]
) -> None:
    """Let ``add_bos_token`` and ``add_eos_token`` decide what is put around a text.

    Where either is present, transformers too lets them replace the file's own post-processor.
    """
    before = [named["bos_token"]] if config.get("add_bos_token") and "bos_token" in named else []
    after = [named["eos_token"]] if config.get("add_eos_token") and "eos_token" in named else []
    set_framing(backend, before, after)


def _eos_ids(
    backend: tokenizers.Tokenizer, named: Mapping[str, str], folder: Path
) -> tuple[int, ...]:
    """The tokenizer's own end token, then those of generation_config.json and config.json."""
    main = backend.token_to_id(named["eos_token"]) if "eos_token" in named else None
    found = [] if main is None else [main]
    for name in ("generation_config.json", "config.json"):
        value = _read_json(folder / name).get("eos_token_id")
        for token_id in value if isinstance(value, list) else [value]:
            if isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0:
                found.append(token_id)
    return tuple(dict.fromkeys(found))


def _chat_templates(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Templates by name; files of their own win over those inside tokenizer_config.json."""
    templates: dict[str, str] = {}
    inline = config.get(
        "chat_template", _read_json(folder / "chat_template.json").get("chat_template")
    )
    if isinstance(inline, str):
        templates["default"] = inline
    elif isinstance(inline, list):
        for entry in inline:
            if not isinstance(entry, Mapping) or not {"name", "template"} <= entry.keys():
                raise CheckpointError(
                    "chat_template must be a text, or a list of objects with name and template, "
                    f"got {shown(repr(inline))}"
                )
            templates[str(entry["name"])] = str(entry["template"])
    elif isinstance(inline, Mapping):
        templates.update({str(name): str(text) for name, text in inline.items()})
    file = folder / "chat_template.jinja"
    if file.is_file():
        templates["default"] = _read_template(file)
    for extra in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[extra.stem] = _read_template(extra)
    return templates


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file.name} cannot be read: {error}") from error
