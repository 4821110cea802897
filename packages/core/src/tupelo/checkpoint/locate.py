"""From what a user calls a model to a path: a folder, a file, or an id on the Hugging Face hub."""

import re
from pathlib import Path
from typing import Final

from tupelo.errors import CheckpointError

# What a hub id may be: it becomes part of a path and of a URL.
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_WANTED: Final = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "tokenizer.model.v*",
    "merges.txt",
    "vocab.txt",
]
# Second copies of the weights in the layout of their authors' own code.
_UNWANTED: Final = ["original/*", "consolidated*.safetensors", "onnx/*", "openvino/*"]


def locate(model: str, *, revision: str | None = None, offline: bool = False) -> Path:
    """The folder or file of ``model``, downloaded where it is a hub id that is not cached.

    Only safetensors, JSON, chat templates and tokenizer files are downloaded, never pickles or
    code.

    Args:
        model: an existing path, or a hub id ``organisation/name``.
        revision: branch, tag or commit of a hub id.
        offline: use only what is in the hub's cache.

    Raises:
        CheckpointError: neither a path nor a hub id, or it cannot be had; the message says what to
            do.
    """
    try:
        if model and (path := Path(model).expanduser()).exists():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, an unknown ~user
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{model[:100]!r} is no usable path: {reason}") from None
    if not _HUB_ID.fullmatch(model) or ".." in model:
        raise CheckpointError(
            f"no model {model[:100]!r}: no such file or folder, and not a hub id of the form "
            "organisation/name. Pass a model folder, a .gguf file, or a hub id"
        )
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise CheckpointError(f"{revision[:100]!r} is no revision: pass a branch, tag or commit")
    return _from_hub(model, revision, offline)


def _from_hub(model: str, revision: str | None, offline: bool) -> Path:
    # Imported here: it takes a third of a second that a local model should not pay.
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    tried = f"no local path {model!r} exists, and from the hub"
    try:
        folder = snapshot_download(
            model,
            revision=revision,
            local_files_only=offline,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{tried} {model} needs its licence accepted: do so on its page, then set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{tried} {model} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{tried} {model} is not there, or is private: check the name, or set HF_TOKEN"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{tried} {model} is not in the cache, and the hub "
            f"{'was not asked (offline)' if offline else 'cannot be reached'}. "
            "Run `tupelo pull` with a network first, or pass a model folder or a .gguf file"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise CheckpointError(
            f"{tried} {model} could not be downloaded: {_first_line(error)}. "
            "Try again, or pass a model folder or a .gguf file"
        ) from error
    return Path(folder)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
