"""The server's life: bind, start the engine, serve, and end the right way.

The socket is bound before the model is loaded, and HTTP answers from then on: ``/health`` says 503
until the engine is ready, and so does every other route.
"""

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from tupelo.cli import BEGAN_S
from tupelo.config import EngineConfig
from tupelo.engine.logs import set_up_logging
from tupelo.errors import ConfigError
from tupelo_server.app import create_app
from tupelo_server.config import ServerConfig, is_loopback
from tupelo_server.http_limits import LimitedProtocol
from tupelo_server.loader import NO_MODEL
from tupelo_server.state import ServerState
from tupelo_server.tls import tls_options
from tupelo_server.tracing.hooks import Tracing

if TYPE_CHECKING:
    from tupelo_server.rpc.server import RpcServer

logger = logging.getLogger(__name__)

DEATH_DRAIN_S = 3
"""After the engine's death replies get this long to tell their clients."""

_ABORT_GRACE_S = 3
"""After the drain's end, aborted requests get this long to end their replies."""


def serve(engine_config: EngineConfig, config: ServerConfig) -> int:
    """Serve until told to stop. Returns the exit code: 0, or 1 if the engine died.

    Raises:
        TupeloError: the address is taken, the configuration is wrong, or the engine did not start.
    """
    _set_up_logging(config)
    with bind(config.host, config.port) as listener:
        template = _read_template(config.chat_template)
        return uvloop.run(Server(engine_config, config, template).run(listener))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: no such address here, or somebody else listens there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(
            f"--host {host}: {error.strerror}; give an address of this machine"
        ) from (error)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port, "
            "or stop the program that uses it"
        ) from error
    return listener


class Server:
    """One run of the server.

    Attributes:
        ready: set once requests are served.

    Raises:
        ConfigError: traces are wanted and cannot be had.
    """

    def __init__(
        self, engine_config: EngineConfig, config: ServerConfig, template: str | None
    ) -> None:
        """Prepare; nothing is started. ``template``: chat template instead of the model's."""
        self._config = config
        self._state = ServerState(
            config=config,
            engine_config=engine_config,
            template=template,
            tracing=open_tracing(config),
        )
        self._state.loader.on_death = self._on_death
        self._http = http_server(self._state)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._exit_code = 0
        self.ready = threading.Event()

    async def run(self, listener: socket.socket) -> int:
        """Start the engine, serve on ``listener``, stop everything. Returns the exit code.

        Raises:
            TupeloError: the engine did not start.
        """
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._on_signal, number)
        rpc = await self._start_rpc()
        serving = asyncio.create_task(self._http.serve(sockets=[listener]))
        starting = asyncio.create_task(self._start(listener))
        try:
            await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            await serving
        finally:
            starting.cancel()
            self._http.should_exit = True
            await asyncio.gather(starting, serving, return_exceptions=True)
            if rpc is not None:
                await rpc.stop()
            if self._draining is not None:
                self._draining.cancel()
            await self._state.loader.close()
            if self._state.tracing is not None:
                self._state.tracing.close()
        return self._exit_code

    async def _start_rpc(self) -> "RpcServer | None":
        """The gRPC service, where it is wanted; it answers that it is not ready until it is.

        Raises:
            ConfigError: the port is taken, or the extra is not installed.
        """
        if not self._config.grpc_port:
            return None
        try:
            from tupelo_server.rpc.server import RpcServer
        except ImportError as error:
            raise ConfigError(
                f"--grpc-port needs {error.name}; install it with: "
                "pip install 'tupelo-server[grpc]'"
            ) from error
        rpc = RpcServer(self._state)
        await rpc.start()
        return rpc

    def stop_from_thread(self) -> None:
        """Drain, called from another thread than the one that runs the server."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended already
                self._loop.call_soon_threadsafe(self._on_signal, signal.SIGTERM)

    async def _start(self, listener: socket.socket) -> None:
        """Load the model, if there is to be one; from then on requests are served."""
        host, port = listener.getsockname()[:2]
        scheme = "https" if self._config.ssl_certfile else "http"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        state = self._state
        if self._config.without_model:
            state.absent, state.empty = NO_MODEL, True
            logger.info("listening on %s; no model is loaded", url)
        else:
            logger.info("listening on %s; loading the model", url)
            spent_s = {"start the server": time.monotonic() - BEGAN_S}
            await state.loader.load(state.first_model)
            state.empty = False
            spent_s |= state.loader.progress.spent_s
            phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent_s.items())
            logger.info("start-up: %s; %.2f s in all", phases, sum(spent_s.values()))
            logger.info("serving at %s/v1", url)
        self.ready.set()
        if not self._config.api_keys and not is_loopback(host):
            logger.warning("the API is open to the network without a key; see --api-key")

    def _on_signal(self, number: int) -> None:
        """Drain at the first signal; leave at once at the second."""
        if self._state.draining:
            self._http.force_exit = True
            return
        name = signal.Signals(number).name
        logger.info("%s: no new requests; running ones may take %g s", name, self._drain_s)
        self._draining = asyncio.ensure_future(self._drain())

    @property
    def _drain_s(self) -> float:
        return self._config.shutdown_timeout_s

    async def _drain(self) -> None:
        """Let running requests end while new ones are told to go elsewhere; then close the door."""
        self._state.draining = True
        await self._state.loader.cancel()
        frontend = self._state.frontend
        end_s = time.monotonic() + self._drain_s
        if frontend is not None:
            frontend.close()
            try:
                async with asyncio.timeout(self._drain_s):
                    await frontend.idle()
            except TimeoutError:
                await frontend.abort_all()
        left_s = max(0.0, end_s - time.monotonic())
        self._http.config.timeout_graceful_shutdown = math.ceil(left_s) + _ABORT_GRACE_S
        self._http.should_exit = True

    def _on_death(self, code: int) -> None:
        """The engine's process ended on its own: its requests have failed; end too."""
        if self._state.draining:
            return
        logger.critical("the engine process died with exit code %d; the server ends", code)
        self._exit_code = 1
        self._state.draining = True
        self._http.config.timeout_graceful_shutdown = DEATH_DRAIN_S
        self._http.should_exit = True


def open_tracing(config: ServerConfig) -> Tracing | None:
    """Where traces go, where they are wanted.

    Raises:
        ConfigError: the extra is not installed, or the endpoint is none.
    """
    if not config.enable_trace:
        return None
    try:
        from tupelo_server.tracing.export import Exported, exporter_to
    except ImportError as error:
        raise ConfigError(
            f"--enable-trace needs {error.name}; install it with: "
            "pip install 'tupelo-server[trace]'"
        ) from error
    return Exported(exporter_to(config.otlp_traces_endpoint))


def http_server(state: ServerState) -> uvicorn.Server:
    """uvicorn with the application of ``state``, its limits, and without its own logging."""
    config = state.config
    return _Http(
        uvicorn.Config(
            create_app(state),
            http=_protocol(config),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_ABORT_GRACE_S,
            **tls_options(config),
        )
    )


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers: the engine has to be stopped after the last reply."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _protocol(config: ServerConfig) -> type[LimitedProtocol]:
    return type("Protocol", (LimitedProtocol,), {"head_timeout_s": config.request_timeout_s})


def _read_template(path: str) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat-template {path}: {error}; give a readable text file") from error


def _set_up_logging(config: ServerConfig) -> None:
    secrets = (*config.api_keys, *config.admin_api_keys)
    set_up_logging(config.log_level, config.log_format, process="server", secrets=secrets)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
