"""What the files of a model tell of it, before anything heavy is imported. Imports no torch."""

from pathlib import Path

from tupelo.checkpoint import demo_model, locate, open_checkpoint, parse_hf_config
from tupelo.checkpoint.fields import read_json
from tupelo.config import EngineConfig, environment
from tupelo.errors import CheckpointError
from tupelo.text.tokenizer import NO_TOKENIZER


def check_files(config: EngineConfig) -> str:
    """Look whether a model can be served, as far as its files tell; where its tokenizer is, "" if
    it has none.

    A model that is not on this machine is fetched.

    Raises:
        CheckpointError, UnsupportedModel: it cannot.
    """
    offline = config.offline or environment().offline
    path = (
        locate(config.model, revision=config.revision or None, offline=offline)
        if config.model
        else demo_model(offline=offline)
    )
    tokenizer = config.tokenizer
    if config.load_format == "dummy" and (file := Path(path) / "config.json").is_file():
        parse_hf_config(read_json(file), where=str(file))
        return tokenizer or str(path)
    return tokenizer or str(open_checkpoint(path).tokenizer_path or "")


def check_files_here(config: EngineConfig) -> None:
    """``check_files``, of a model that needs no fetching.

    Raises:
        CheckpointError, UnsupportedModel: it cannot be served.
    """
    if config.model and Path(config.model).exists() and not check_files(config):
        raise CheckpointError(NO_TOKENIZER)
