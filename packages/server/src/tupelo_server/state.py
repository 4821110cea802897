"""What the routes share, and how they reach it."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from tupelo.config import EngineConfig
from tupelo.engine.client import Health
from tupelo.errors import EngineUnavailable
from tupelo_server.access import Access, refuse_browsers
from tupelo_server.config import ServerConfig
from tupelo_server.engine_client import Frontend
from tupelo_server.errors import Forbidden, ModelNotLoaded
from tupelo_server.guard import CALLER
from tupelo_server.keys import Caller
from tupelo_server.loader import ModelLoader, ModelOptions
from tupelo_server.metrics import Metrics
from tupelo_server.request_log import RequestLog
from tupelo_server.response_store import ResponseStore
from tupelo_server.tracing.hooks import Tracing

_FRONTEND = "tupelo.frontend"


@dataclass(kw_only=True)
class ServerState:
    """The server's parts, which outlive its models. What belongs to one model is its frontend's.

    Attributes:
        engine_config: the engine's options, as the server was started with them.
        frontend: the model that is served; None where there is none, as at the start.
        absent: why there is none. empty: because an administrator wants it so.
        draining: set when the server has been told to stop.
        started_s: when the process began, in seconds since 1970.
        template: source of the chat template that it was started with, instead of the model's.
        tracing: where traces go; None where there are none.
        metrics: what is counted of the model's requests. log: what is written of each.
        loader: loads and unloads models.
        responses: those of ``/v1/responses`` that are kept.
    """

    config: ServerConfig
    engine_config: EngineConfig
    template: str | None = None
    tracing: Tracing | None = None
    frontend: Frontend | None = None
    absent: str = "the engine is starting"
    empty: bool = False
    draining: bool = False
    started_s: float = field(default_factory=time.time)
    metrics: Metrics = field(init=False)
    log: RequestLog = field(init=False)
    loader: ModelLoader = field(init=False)
    responses: ResponseStore = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.metrics = Metrics(
            first_token_bounds=config.bucket_time_to_first_token,
            inter_token_bounds=config.bucket_inter_token_latency,
            latency_bounds=config.bucket_e2e_request_latency,
        )
        self.log = RequestLog(enabled=config.log_requests, level=config.log_requests_level)
        self.loader = ModelLoader(self)
        self.responses = ResponseStore(
            config.response_store_entries, config.response_store_bytes, config.response_store_ttl_s
        )

    def health(self) -> Health:
        """Whether requests can be served, from the engine's heartbeats alone."""
        if self.frontend is None:
            return Health(False, self.absent)
        return self.frontend.engine.health()

    @property
    def alive(self) -> bool:
        """Whether nothing is wrong; a server without a model may be just what is wanted."""
        return self.empty if self.frontend is None else self.health().ready

    @property
    def first_model(self) -> ModelOptions:
        """The model that the server was started for."""
        config = self.config
        return ModelOptions(
            engine=self.engine_config,
            chat_template=self.template,
            tool_call_parser=config.tool_call_parser,
            reasoning_parser=config.reasoning_parser,
            weight_version=config.weight_version,
        )

    def serving(self) -> Frontend:
        """The model that is served now.

        Raises:
            EngineUnavailable: there is none.
        """
        if self.frontend is None:
            kind = ModelNotLoaded if self.empty else EngineUnavailable
            raise kind(f"not ready: {self.absent}")
        return self.frontend


def state_of(request: Request) -> ServerState:
    """The server that a request came to."""
    state: ServerState = request.app.state.server
    return state


def frontend_of(request: Request) -> Frontend:
    """The model that a request is for: the one that was served when this was first asked. Another
    may be served before the request ends, and has no part in it.

    Raises:
        EngineUnavailable: there was none.
    """
    frontend: Frontend = request.scope.get(_FRONTEND) or state_of(request).serving()
    request.scope[_FRONTEND] = frontend
    return frontend


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
