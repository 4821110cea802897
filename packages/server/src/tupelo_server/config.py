"""Options of the HTTP side, each declared once; the server's environment is read here too."""

import os
from dataclasses import dataclass

from tupelo.config import check_options, option
from tupelo.errors import ConfigError

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything that the HTTP server can be told; the engine has its own ``EngineConfig``."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 opens the server to the network")
    port: int = option(30000, "port to listen on; 0 takes a free one", low=0)
    root_path: str = option("", "path prefix under which a proxy shows the server, such as /llm")
    api_key: str = option(
        "", "keys that open the API, separated by commas; better given as TUPELO_API_KEY"
    )
    chat_template: str = option("", "file with the chat template to use instead of the model's")
    max_body_bytes: int = option(32 << 20, "largest request body in bytes", low=1)
    request_timeout_s: float = option(
        60.0, "seconds that a client may take to send its headers, and its body", low=1
    )
    shutdown_timeout_s: float = option(
        30.0, "seconds that running requests may take to end after SIGTERM", low=0
    )
    incremental_streaming_output: bool = option(
        False, "events of a native stream carry what is new instead of everything so far"
    )
    stream_interval: int = option(1, "tokens of a streamed event, where a request says none", low=1)
    enable_cache_report: bool = option(
        False, "tell in usage how many prompt tokens came from the cache"
    )
    enable_metrics: bool = option(True, "serve /metrics")
    log_level: str = option("info", "what is logged", choices=LOG_LEVELS)
    log_requests: bool = option(False, "log a line for each HTTP request, without its content")

    def __post_init__(self) -> None:
        check_options(self)
        if self.port > 65535:
            raise ConfigError(f"--port: got {self.port}; must be at most 65535")
        if self.root_path and not (self.root_path.startswith("/") and self.root_path[-1] != "/"):
            raise ConfigError(
                f"--root-path: got {self.root_path!r}; must begin with a slash and not end with one"
            )

    @property
    def api_keys(self) -> tuple[str, ...]:
        """Every key that opens the API; none means that the API is open."""
        return tuple(split_keys(self.api_key))


def split_keys(given: str) -> list[str]:
    """API keys of a comma-separated list; where none is given, of ``TUPELO_API_KEY``."""
    text = given or os.environ.get("TUPELO_API_KEY", "")
    return [key.strip() for key in text.split(",") if key.strip()]


def client_key(given: str) -> str:
    """The key that a client sends: the given one, else the first of ``TUPELO_API_KEY``."""
    return next(iter(split_keys(given)), "")
