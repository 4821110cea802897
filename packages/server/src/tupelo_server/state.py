"""What the routes share, and how they reach it."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from tupelo.config import EngineConfig
from tupelo.engine.client import Health
from tupelo.errors import EngineUnavailable
from tupelo_server.access import Access, refuse_browsers
from tupelo_server.config import ServerConfig
from tupelo_server.engine_client import Engine, Frontend
from tupelo_server.errors import Forbidden
from tupelo_server.guard import CALLER
from tupelo_server.keys import Caller
from tupelo_server.metrics import Metrics
from tupelo_server.request_log import RequestLog
from tupelo_server.stats import EngineStats


@dataclass(kw_only=True)
class ServerState:
    """The server's parts. ``frontend`` is None until the engine is ready.

    Attributes:
        draining: set when the server has been told to stop.
        held: an operator keeps the engine from computing; requests wait.
        weight_version: the operator's name for the weights that are served.
        started_s: when the process began, in seconds since 1970.
        log: what is written of each request. stats: the engine's numbers.
    """

    config: ServerConfig
    engine_config: EngineConfig
    engine: Engine
    frontend: Frontend | None = None
    draining: bool = False
    held: bool = False
    weight_version: str = field(init=False)
    started_s: float = field(default_factory=time.time)
    metrics: Metrics = field(init=False)
    log: RequestLog = field(init=False)
    stats: EngineStats = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.metrics = Metrics(
            first_token_bounds=config.bucket_time_to_first_token,
            inter_token_bounds=config.bucket_inter_token_latency,
            latency_bounds=config.bucket_e2e_request_latency,
        )
        self.stats = EngineStats(self.engine)
        self.log = RequestLog(enabled=config.log_requests, level=config.log_requests_level)
        self.weight_version = config.weight_version

    def health(self) -> Health:
        """Whether requests can be served, from the engine's heartbeats alone."""
        found = self.engine.health()
        if found.ready and self.frontend is None:
            return Health(False, "the tokenizer is being loaded")
        return found

    @property
    def sampling_defaults(self) -> dict[str, float]:
        """Sampling values where a request to ``/v1`` has none; what is missing is OpenAI's."""
        from_model = self.config.sampling_defaults == "model"
        return self.engine.info.generation_defaults if from_model else {}

    @property
    def model_name(self) -> str:
        """The model's name in the API: the given one, else the last part of where it is."""
        given = self.engine_config.served_model_name
        return given or public_path(self.engine_config.model or self.engine.info.model_path)


def public_path(path: str) -> str:
    """A model's path as strangers may see it: of an absolute one only the last part."""
    local = path.startswith(("/", "~", "."))
    return path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf") if local else path


def state_of(request: Request) -> ServerState:
    """The server that a request came to."""
    state: ServerState = request.app.state.server
    return state


def frontend_of(request: Request) -> Frontend:
    """The way to the engine.

    Raises:
        EngineUnavailable: it is not ready yet, or the server is stopping.
    """
    state = state_of(request)
    if state.frontend is None:
        raise EngineUnavailable(f"not ready: {state.health().reason or 'the server is starting'}")
    return state.frontend


def caller_of(request: Request) -> Caller:
    """Who asks, as the guard has found."""
    caller: Caller = request.scope[CALLER]
    return caller


def require(request: Request, access: Access) -> None:
    """Refuse a part of a route to callers below this level.

    Raises:
        Forbidden: the caller may not use it.
    """
    caller = caller_of(request)
    if caller.access < access:
        raise Forbidden("this needs the admin key")
    if not caller.known:
        refuse_browsers(request.scope)


def owner_of(request: Request) -> str:
    """Whose the request is: a digest of the caller's key, or "" without one."""
    return caller_of(request).owner
