"""Behind ``tupelo chat``: a conversation over HTTP, and a server for as long as it lasts."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import uvloop

from tupelo.config import EngineConfig
from tupelo.errors import EngineUnavailable, RequestError, TupeloError
from tupelo_server.config import ServerConfig
from tupelo_server.server import Server, bind

_POLL_S = 0.1


class Conversation:
    """Messages so far, and the server that continues them."""

    def __init__(
        self, url: str, key: str, *, system: str = "", options: dict[str, Any] | None = None
    ) -> None:
        """Talk to the server at ``url``. ``options``: fields of the request; None is left out."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(10.0, read=None)
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._options = {k: v for k, v in (options or {}).items() if v is not None}
        self._first = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = [*self._first]

    def clear(self) -> None:
        """Forget what was said, but not the instructions."""
        self.messages = [*self._first]

    def ask(self, text: str) -> Iterator[str]:
        """Say something; the reply, piece by piece. Stopping early keeps what has been said.

        Raises:
            RequestError: the server refuses, or fails.
            EngineUnavailable: it cannot be reached.
        """
        self.messages.append({"role": "user", "content": text})
        said: list[str] = []
        try:
            for piece in self._stream():
                said.append(piece)
                yield piece
        finally:
            if said:
                self.messages.append({"role": "assistant", "content": "".join(said)})
            else:
                self.messages.pop()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _stream(self) -> Iterator[str]:
        body = {"messages": self.messages, "stream": True, **self._options}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise RequestError(
                        f"the server answers {response.status_code}: {response.text}"
                    )
                for line in response.iter_lines():
                    yield from _pieces(line)
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"no connection to the server: {error}") from error


@contextmanager
def running_server(engine_config: EngineConfig) -> Iterator[str]:
    """A server in a thread of this process, on a free port; yields its address when it is ready.

    Raises:
        TupeloError: the engine did not start.
    """
    config = ServerConfig(port=0, log_level="warning", shutdown_timeout_s=0.0)
    with bind(config.host, config.port) as listener:
        server = Server(engine_config, config, None)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(lambda: uvloop.run(server.run(listener)))
            try:
                while not server.ready.wait(_POLL_S):
                    if ended.done():
                        raise ended.exception() or TupeloError("the server ended while it started")
                yield "http://{}:{}".format(*listener.getsockname())
            finally:
                server.stop_from_thread()


def _pieces(line: str) -> Iterator[str]:
    """The text in a line of an event stream.

    Raises:
        RequestError: the line is an error event.
    """
    if not line.startswith("data: ") or line == "data: [DONE]":
        return
    data = json.loads(line[len("data: ") :])
    if "error" in data:
        raise RequestError(data["error"]["message"])
    for choice in data["choices"]:
        if choice["delta"].get("content"):
            yield choice["delta"]["content"]
