"""Options: each declared once, as a field; flags and documentation are generated from the
declaration.

Configs are frozen; ``resolve``-like steps return new ones. Environment variables are read here and
nowhere else in core.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from tupelo.errors import ConfigError


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    secret: bool = False,
) -> Any:
    """Declare an option of a config dataclass.

    Args:
        default: its value when not given.
        help: one sentence for people, with the unit.
        choices: allowed values of a string option.
        low: smallest allowed value of a number.
        secret: the value is shown nowhere.
    """
    metadata = {"help": help, "choices": choices, "low": low, "secret": secret}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Everything that the engine can be told."""

    model: str = option("", "model folder, GGUF file or hub id; empty means the demo model")
    tokenizer: str = option("", "tokenizer folder or GGUF file, if not the model's own")
    revision: str = option("", "revision of a hub model")
    served_model_name: str = option("", "name of the model in the API; empty means the model's")
    backend: str = option("", "backend to use; empty means the best usable one")
    load_format: str = option(
        "auto", "where weights come from", choices=("auto", "safetensors", "gguf", "dummy")
    )
    task: str = option(
        "auto",
        "what the model is for; auto goes by its architecture and files",
        choices=("auto", "generate", "embed", "classify", "rank"),
    )
    dtype: str = option(
        "auto",
        "compute type; auto is the checkpoint's where the backend has it, else the backend's first",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    kv_cache_dtype: str = option(
        "auto",
        "storage type of K/V; auto is dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    context_length: int = option(0, "longest prompt + output in tokens; 0 means the model's", low=0)
    weight_roots: str = option(
        "",
        "folders, separated as in PATH, from which /update_weights_from_disk may load new weights; "
        "empty means none",
    )
    profile_dir: str = option(
        "", "folder that /start_profile writes profiles into; empty means that it writes none"
    )
    offline: bool = option(False, "never download anything")
    seed: int = option(0, "seed of dummy weights and of requests that bring none")

    max_running_requests: int = option(
        0, "requests that run at once; 0 suits the backend and its memory", low=0
    )
    max_queued_requests: int = option(1024, "requests that wait at most; more get a 429", low=0)
    max_total_tokens: int = option(0, "tokens in the K/V pool; 0 means as memory allows", low=0)
    mem_fraction_static: float = option(
        0.0, "share of memory for weights and K/V; 0 means the backend's default", low=0.0
    )
    page_size: int = option(16, "tokens of a K/V page", low=1)
    chunked_prefill_size: int = option(
        0,
        "prompt tokens of one step at most; 0 suits the backend, -1 means whole prompts",
        low=-1,
    )
    max_step_ms: float = option(
        0.0,
        "milliseconds that a step may take, as predicted, while a streamed reply waits for it: "
        "prompts are cut to that; 0 suits the backend, -1 means no bound",
        low=-1,
    )
    schedule_policy: str = option(
        "fcfs",
        "order of the waiting queue",
        choices=("fcfs", "lpm", "dfs-weight", "lof", "random", "priority"),
    )
    pipeline_depth: int = option(
        0,
        "steps in flight: 1 is synchronous, 2 overlaps host and device; 0 suits the backend",
        low=0,
    )
    disable_radix_cache: bool = option(False, "never share K/V between requests")
    radix_eviction_policy: str = option(
        "lru", "what leaves the cache first", choices=("lru", "lfu")
    )
    kernel_fallback: str = option(
        "allow", "whether the torch reference may serve an op", choices=("allow", "forbid")
    )
    batch_invariant: bool = option(
        False,
        "a request's tokens never depend on what else is in its batch; needs a backend that can",
    )
    grammar_backend: str = option(
        "auto",
        "library that follows grammars; auto is llguidance, none refuses grammars",
        choices=("auto", "llguidance", "xgrammar", "none"),
    )
    constrained_json_whitespace_pattern: str = option(
        "",
        "regular expression of the whitespace between JSON's tokens; empty means a space or two, "
        "or a new line and its indentation",
    )
    constrained_json_disable_any_whitespace: bool = option(
        False, "no whitespace between JSON's tokens"
    )
    disable_jump_forward: bool = option(
        False, "sample tokens that a grammar forces, instead of appending them"
    )
    grammar_compile_limit_s: float = option(
        1.5, "seconds that compiling one grammar may take", low=0.1
    )
    grammar_cache_entries: int = option(256, "compiled grammars that are kept", low=0)
    grammar_cache_mb: int = option(512, "memory of compiled grammars that are kept, in MiB", low=0)
    watchdog_timeout_s: float = option(
        300.0, "a step longer than this means the engine is stuck", low=1
    )
    check_integrity: bool = option(False, "check the page bookkeeping after each step (for tests)")

    def __post_init__(self) -> None:
        check_options(self)


def check_options(config: Any) -> None:
    """Check every option's choices and lower bound.

    Raises:
        ConfigError: names the flag, the value and what is allowed.
    """
    for item in fields(config):
        value, meta = getattr(config, item.name), item.metadata
        if meta.get("choices") and value not in meta["choices"]:
            raise ConfigError(
                f"{flag_of(item)}: got {value!r}; allowed: {', '.join(meta['choices'])}"
            )
        if meta.get("low") is not None and value < meta["low"]:
            raise ConfigError(f"{flag_of(item)}: got {value}; must be at least {meta['low']:g}")


def flag_of(item: Field[Any]) -> str:
    """The command-line flag of an option."""
    return "--" + item.name.replace("_", "-")


def default_of(item: Field[Any]) -> Any:
    """The default of an option."""
    assert item.default is not MISSING
    return item.default


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Environment variables that core reads.

    Attributes:
        backend: ``TUPELO_BACKEND``, name of the backend to use.
        cache_dir: ``TUPELO_CACHE``, folder for models, tokenizers and built kernels.
        offline: ``TUPELO_OFFLINE``, "1": never download anything.
    """

    backend: str
    cache_dir: Path
    offline: bool


def environment() -> Environment:
    """Read the environment now."""
    cache = os.environ.get("TUPELO_CACHE")
    return Environment(
        backend=os.environ.get("TUPELO_BACKEND", ""),
        cache_dir=Path(cache) if cache else Path.home() / ".cache" / "tupelo",
        offline=os.environ.get("TUPELO_OFFLINE", "") == "1",
    )


def choice(name: str, default: str, allowed: Sequence[str]) -> str:
    """What an environment variable says; how a backend reads its own.

    Args:
        default: for a variable that is not there or empty.

    Raises:
        ConfigError: it is neither ``default`` nor one of ``allowed``.
    """
    value = os.environ.get(name) or default
    if value != default and value not in allowed:
        raise ConfigError(f"{name}: got {value!r}; allowed: {', '.join(allowed)}")
    return value


def server_environment(keys: Mapping[str, str | None]) -> dict[str, str]:
    """The environment for a server that this process starts: this one, and the server's keys.

    A command line is seen by everybody on the machine, an environment by its user alone.

    Args:
        keys: by option, such as ``api_key``.
    """
    given = {f"TUPELO_{option.upper()}": key for option, key in keys.items() if key}
    return {**os.environ, **given}


def engine_environment() -> dict[str, str]:
    """The environment for the engine's process: this one without the API's keys, which it does not
    need."""
    return {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("TUPELO_") and name.endswith("_KEY"))
    }
