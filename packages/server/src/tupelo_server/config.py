"""Options of the HTTP side, each declared once; the server's environment is read here too."""

import ipaddress
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tupelo.config import check_options, option
from tupelo.engine.logs import FORMATS
from tupelo.errors import ConfigError
from tupelo.text.detect import named_reasoning, named_tools

_COLLECTOR = "localhost:4317"
_BUCKETS = "upper bounds of this histogram's buckets in seconds; else 1 ms to 120 s"
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything that the HTTP server can be told; the engine has its own ``EngineConfig``."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 opens the server to the network")
    port: int = option(30000, "port to listen on; 0 takes a free one", low=0)
    grpc_port: int = option(
        0, "port of the native gRPC service, on the same address; 0 leaves it off", low=0
    )
    root_path: str = option("", "path prefix under which a proxy shows the server, such as /llm")
    api_key: str = option(
        "",
        "keys that open the API, separated by commas; better given as TUPELO_API_KEY, for other "
        "users of the machine see command lines",
        secret=True,
    )
    api_key_file: str = option("", "file with more such keys, one a line; lines with # are skipped")
    admin_api_key: str = option(
        "",
        "keys that open the administrators' routes too; better given as TUPELO_ADMIN_API_KEY",
        secret=True,
    )
    admin_api_key_file: str = option("", "file with more such keys, one a line")
    enable_admin_routes: bool = option(
        False,
        "open the administrators' routes without an admin key; only where the server listens on "
        "this machine alone",
    )
    share_cache_across_keys: bool = option(
        False, "callers with different keys may use each other's cached prefixes"
    )
    ssl_certfile: str = option("", "PEM file with the certificate; with it the server speaks TLS")
    ssl_keyfile: str = option("", "PEM file with the certificate's key")
    ssl_keyfile_password: str = option("", "password of the key", secret=True)
    ssl_ca_certs: str = option(
        "", "PEM file with authorities; clients then need a certificate of one of them"
    )
    cors_origins: tuple[str, ...] = option(
        (), "origins whose web pages may use the API, such as https://app.example.org, or *"
    )
    chat_template: str = option("", "file with the chat template to use instead of the model's")
    sampling_defaults: str = option(
        "model",
        "where /v1 takes sampling values from that a request leaves out: the model's "
        "generation_config.json, or OpenAI's",
        choices=("model", "openai"),
    )
    trust_request_chat_template: bool = option(
        False, "render chat templates that requests bring, in the sandbox of the model's own"
    )
    without_model: bool = option(
        False, "start without a model; an administrator loads one with POST /load_model"
    )
    weight_version: str = option("default", "name of the weights, which replies tell")
    tool_call_parser: str = option(
        "auto", "how the model writes tool calls: auto (as its template tells), none, or a name"
    )
    reasoning_parser: str = option(
        "auto", "how the model marks its thoughts: auto (as its template tells), none, or a name"
    )
    max_body_bytes: int = option(32 << 20, "largest request body in bytes", low=1)
    request_timeout_s: float = option(
        60.0, "seconds that a client may take to send its headers, and its body", low=1
    )
    max_queue_time_s: float = option(
        0.0,
        "seconds that a request may wait for its first step; longer ones get a 503; 0 is no limit",
        low=0,
    )
    max_request_time_s: float = option(
        0.0,
        "seconds that a request may take in all; longer ones get a 504; 0 is no limit; a request "
        "may ask for less with the header X-Request-Timeout-S",
        low=0,
    )
    max_sessions: int = option(1024, "sessions that one key may have open", low=0)
    max_session_tokens: int = option(
        16 << 20, "tokens that the sessions of one key may hold, and 256 for each request", low=0
    )
    session_timeout_s: float = option(
        3600.0, "seconds without a request after which a session is closed", low=0.001
    )
    response_store_entries: int = option(
        1024, "responses of /v1/responses kept in memory for later requests; 0 keeps none", low=0
    )
    response_store_bytes: int = option(
        128 << 20, "bytes that they may take together; one may have a fourth of them", low=1
    )
    response_store_ttl_s: float = option(
        3600.0, "seconds that a response is kept from its end on", low=0
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
    enable_request_timing: bool = option(
        False, "tell in every reply where its time went, not only where a request asks for it"
    )
    enable_metrics: bool = option(True, "serve /metrics")
    enable_playground: bool = option(
        True, "serve the playground at /; what it shows of the engine needs a key as ever"
    )
    enable_trace: bool = option(
        False, "send OpenTelemetry spans of each request; needs tupelo-server[trace]"
    )
    otlp_traces_endpoint: str = option(
        _COLLECTOR,
        "collector that spans go to: HOST:PORT for OTLP over gRPC, a URL for OTLP over HTTP",
        secret=True,
    )
    bucket_time_to_first_token: tuple[float, ...] = option((), _BUCKETS)
    bucket_inter_token_latency: tuple[float, ...] = option((), _BUCKETS)
    bucket_e2e_request_latency: tuple[float, ...] = option((), _BUCKETS)
    log_level: str = option("info", "what is logged", choices=LOG_LEVELS)
    access_log: bool = option(
        False, "log a line for each HTTP request: method, route, status and time"
    )
    log_requests: bool = option(False, "log each request for text as it comes and as it ends")
    log_requests_level: int = option(
        0,
        "how much of a request is logged: 0 ids, counts and times, 1 its parameters too, "
        "2 the beginnings of prompt and output, 3 all of both",
        low=0,
    )
    log_format: str = option("text", "form of the log's lines", choices=FORMATS)

    def __post_init__(self) -> None:
        check_options(self)
        for flag, port in (("--port", self.port), ("--grpc-port", self.grpc_port)):
            if port > 65535:
                raise ConfigError(f"{flag}: got {port}; must be at most 65535")
        if self.grpc_port and self.grpc_port == self.port:
            raise ConfigError(f"--grpc-port: got {self.grpc_port}, which is --port too; use two")
        if self.root_path and not (self.root_path.startswith("/") and self.root_path[-1] != "/"):
            raise ConfigError(
                f"--root-path: got {self.root_path!r}; must begin with a slash and not end with one"
            )
        if self.log_requests_level > 3:
            raise ConfigError(
                f"--log-requests-level: got {self.log_requests_level}; must be at most 3"
            )
        if self.otlp_traces_endpoint != _COLLECTOR and not self.enable_trace:
            raise ConfigError("--otlp-traces-endpoint: nothing is sent without --enable-trace")
        if self.tool_call_parser not in ("auto", "none"):
            named_tools(self.tool_call_parser)
        if self.reasoning_parser not in ("auto", "none"):
            named_reasoning(self.reasoning_parser)
        for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency"):
            bounds: tuple[float, ...] = getattr(self, f"bucket_{name}")
            if not all(low < high for low, high in pairwise((0.0, *bounds, math.inf))):
                flag = f"--bucket-{name.replace('_', '-')}"
                raise ConfigError(f"{flag}: bounds must be above 0 and grow; got {bounds}")
        both = set(self.api_keys) & set(self.admin_api_keys)
        if both:
            raise ConfigError("a key is given as an API key and as an admin key; use two keys")
        if self.without_model and not (self.admin_api_keys or self.enable_admin_routes):
            raise ConfigError(
                "--without-model: nobody could load one; give --admin-api-key or "
                "--enable-admin-routes"
            )
        if self.enable_admin_routes and self.admin_api_keys:
            raise ConfigError("--enable-admin-routes is for a server without an admin key")
        if self.enable_admin_routes and not is_loopback(self.host):
            raise ConfigError(
                f"--enable-admin-routes: --host {self.host} is open to others; "
                "give --admin-api-key instead"
            )

    @property
    def api_keys(self) -> tuple[str, ...]:
        """Every key that opens the API; none means that the API is open."""
        return (*split_keys(self.api_key), *_keys_of("--api-key-file", self.api_key_file))

    @property
    def admin_api_keys(self) -> tuple[str, ...]:
        """Every key that opens the administrators' routes."""
        given = _split(self.admin_api_key or os.environ.get("TUPELO_ADMIN_API_KEY", ""))
        return (*given, *_keys_of("--admin-api-key-file", self.admin_api_key_file))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_keys(given: str) -> list[str]:
    """API keys of a comma-separated list; where none is given, of ``TUPELO_API_KEY``."""
    return _split(given or os.environ.get("TUPELO_API_KEY", ""))


def client_key(given: str) -> str:
    """The key that a client sends: the given one, else the first of ``TUPELO_API_KEY``."""
    return next(iter(split_keys(given)), "")


def _split(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def _keys_of(flag: str, path: str) -> list[str]:
    """The keys in a file.

    Raises:
        ConfigError: unreadable, or without a key: an empty file must not open the server.
    """
    if not path:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"{flag} {path}: {reason}; give a readable text file") from None
    keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not keys:
        raise ConfigError(f"{flag} {path}: there is no key in it; give one a line")
    return keys
