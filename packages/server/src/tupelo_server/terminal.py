"""Behind ``tupelo chat``: a conversation over HTTP, and a server for as long as it lasts."""

import json
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import uvloop

from tupelo.config import EngineConfig
from tupelo.errors import EngineUnavailable, RequestError, TupeloError
from tupelo.lang.backends.http import uses_proxies
from tupelo_server.config import ServerConfig
from tupelo_server.server import Server, bind

_POLL_S = 0.1


class Piece(NamedTuple):
    """Some text of a reply; ``thought``: of what the model thinks before it."""

    text: str
    thought: bool = False


class Conversation:
    """Messages so far, and the server that continues them.

    Attributes:
        system: instructions for the model, or "".
        options: fields of each request. messages: what was said, without the instructions.
    """

    def __init__(
        self, url: str, key: str, *, system: str = "", options: dict[str, Any] | None = None
    ) -> None:
        """Talk to the server at ``url``. ``options``: fields of the request; None is left out."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(10.0, read=None)
        self._client = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, trust_env=uses_proxies(url)
        )
        self.options = {k: v for k, v in (options or {}).items() if v is not None}
        self.system = system
        self.messages: list[dict[str, str]] = []

    def clear(self) -> None:
        """Forget what was said, but not the instructions."""
        self.messages = []

    def everything(self) -> list[dict[str, str]]:
        """The instructions and what was said."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.messages]

    def restore(self, messages: list[dict[str, str]]) -> None:
        """Go on from such a list."""
        begins = bool(messages) and messages[0]["role"] == "system"
        self.system = messages[0]["content"] if begins else ""
        self.messages = list(messages[1:] if begins else messages)

    def undo(self) -> str | None:
        """Take back what the user said last, and all after it; returns it, or None."""
        for place in range(len(self.messages) - 1, -1, -1):
            if self.messages[place]["role"] == "user":
                said = self.messages[place]["content"]
                self.messages = self.messages[:place]
                return said
        return None

    def ask(self, text: str) -> Generator[Piece, None, None]:
        """Say something; the reply, piece by piece. Stopping early keeps what has been said.

        Raises:
            RequestError: the server refuses, or fails.
            EngineUnavailable: it cannot be reached.
        """
        self.messages.append({"role": "user", "content": text})
        said: list[str] = []
        try:
            for piece in self._stream():
                if not piece.thought:
                    said.append(piece.text)
                yield piece
        finally:
            if said:
                self.messages.append({"role": "assistant", "content": "".join(said)})
            else:
                self.messages.pop()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _stream(self) -> Iterator[Piece]:
        body = {"messages": self.everything(), "stream": True, **self.options}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise RequestError(_reason(response))
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


def _reason(response: httpx.Response) -> str:
    """Why the server refuses: its own words, where it has any."""
    try:
        error = response.json()["error"]
        words = error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError):
        words = response.text
    return f"the server answers {response.status_code}: {words}"


def _pieces(line: str) -> Iterator[Piece]:
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
        delta = choice["delta"]
        if delta.get("reasoning_content"):
            yield Piece(delta["reasoning_content"], thought=True)
        if delta.get("content"):
            yield Piece(delta["content"])
