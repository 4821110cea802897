"""The tokenizer of a GGUF file, with slow conversions kept in the user's cache folder."""

import hashlib
import logging
import os
import tempfile
from pathlib import Path

import tokenizers

from tupelo.checkpoint.gguf import read_gguf_header
from tupelo.config import environment
from tupelo.text.gguf_facts import facts_from_gguf
from tupelo.text.gguf_vocab import conversion_is_slow, tokenizer_from_gguf
from tupelo.text.tokenizer import TokenizerFacts

logger = logging.getLogger(__name__)

CONVERTER_VERSION = 1
"""Part of a cache entry's name; to be raised whenever a conversion changes."""


def read_gguf(
    path: Path, *, cache_dir: Path | None = None
) -> tuple[tokenizers.Tokenizer, TokenizerFacts]:
    """The tokenizer of the GGUF file ``path``.

    A SentencePiece conversion takes seconds and is kept under ``cache_dir``; a byte-pair one is
    quicker than reading it back, and is not.

    Raises:
        CheckpointError: the file is broken. UnsupportedModel: its tokenizer is unknown.
    """
    header = read_gguf_header(path)
    metadata = header.metadata
    facts = facts_from_gguf(metadata)
    if not conversion_is_slow(metadata):
        return tokenizer_from_gguf(metadata), facts
    folder = (cache_dir or environment().cache_dir) / "tokenizers"
    entry = folder / f"{_digest(path, header.data_offset)}-{CONVERTER_VERSION}.json"
    backend = _read_entry(entry)
    if backend is None:
        backend = tokenizer_from_gguf(metadata)
        _write_entry(entry, backend)
    return backend, facts


def _digest(path: Path, header_bytes: int) -> str:
    """SHA-256 of the file's header: all metadata and the tensor table, not the tensors."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(header_bytes)).hexdigest()


def _read_entry(entry: Path) -> tokenizers.Tokenizer | None:
    """The kept tokenizer; None where there is none or it cannot be used."""
    if not entry.is_file():
        return None
    try:
        return tokenizers.Tokenizer.from_file(str(entry))
    except Exception as error:  # the library raises bare Exception for every broken file
        logger.warning("ignoring the cached tokenizer %s: %s", entry.name, error)
        return None


def _write_entry(entry: Path, backend: tokenizers.Tokenizer) -> None:
    """Keep ``backend``: written aside, then renamed, so that readers see all or nothing."""
    scratch = ""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=entry.parent, prefix=entry.stem, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(backend.to_str())
        Path(scratch).replace(entry)
    except OSError as error:
        logger.info("the converted tokenizer is not cached, which costs time only: %s", error)
        if scratch:
            Path(scratch).unlink(missing_ok=True)
