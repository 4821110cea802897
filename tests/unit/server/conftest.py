"""A server over a scripted engine, on a real socket: the network, uvicorn and clients are real."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
import uvloop
from tests.unit.server.fake_engine import FakeEngine, byte_tokenizer

from tupelo.config import EngineConfig
from tupelo.text.templates import TemplateRenderer
from tupelo_server.config import ServerConfig
from tupelo_server.engine_client import Frontend
from tupelo_server.loader import limits_of
from tupelo_server.prompts import Prompts
from tupelo_server.server import bind, http_server, open_tracing
from tupelo_server.state import ServerState

TOKENIZER = byte_tokenizer()


@dataclass
class Service:
    """A running server.

    Attributes:
        engine: the scripted engine behind it. url: its address. http: a plain client.
        openai: the official one; typed loosely, for replies have more than it declares.
    """

    engine: FakeEngine
    state: ServerState
    url: str
    loop: asyncio.AbstractEventLoop
    http: httpx.Client
    openai: Any

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)


Start = Callable[..., Service]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server with these options; all are stopped after the test."""
    with ExitStack() as stack:

        def starting(**options: Any) -> Service:
            engine_options = options.pop("engine", {})
            return stack.enter_context(_running(engine_options, options))

        yield starting


@pytest.fixture(scope="module")
def _shared() -> Iterator[Service]:
    with _running({}, {}) as service:
        yield service


@pytest.fixture
def service(_shared: Service) -> Service:
    """A server with the default options, shared by a module's tests; its engine is as new."""
    _shared.engine.reset()
    return _shared


@contextmanager
def _running(engine_options: dict[str, Any], options: dict[str, Any]) -> Iterator[Service]:
    template = options.pop("template", None)
    config = ServerConfig(port=0, **options)
    engine = FakeEngine(TOKENIZER)
    state = ServerState(
        config=config,
        engine_config=EngineConfig(served_model_name="tiny", **engine_options),
        tracing=open_tracing(config),
    )
    limits = limits_of(config)
    prompts = Prompts(
        TOKENIZER,
        TemplateRenderer(),
        template,
        tool_call_parser=config.tool_call_parser,
        reasoning_parser=config.reasoning_parser,
    )
    from_model = config.sampling_defaults == "model"
    state.frontend = Frontend(
        engine,
        prompts,
        state.metrics,
        state.log,
        limits,
        config=state.engine_config,
        sampling_defaults=engine.info.generation_defaults if from_model else {},
    )
    server = http_server(state)
    loop = uvloop.new_event_loop()
    with bind("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        thread = threading.Thread(target=_serve, args=(loop, server, listener))
        thread.start()
        url = f"http://{host}:{port}"
        with (
            httpx.Client(base_url=url, timeout=30) as http,
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official,
        ):
            yield Service(engine, state, url, loop, http, official)
        server.should_exit = True
        server.force_exit = True
        thread.join()
    loop.close()
    prompts.close()
    if state.tracing is not None:
        state.tracing.close()


def _serve(loop: asyncio.AbstractEventLoop, server: Any, listener: socket.socket) -> None:
    asyncio.set_event_loop(loop)
    loop.run_until_complete(server.serve(sockets=[listener]))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
