"""Behind ``tupelo chat``: a conversation over HTTP, and a server for as long as it lasts."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import httpx

from tupelo.errors import EngineUnavailable, RequestError, TupeloError
from tupelo_server.server import bind

START_LIMIT_S = 600.0
_STOP_LIMIT_S = 10.0


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
def running_server(flags: Sequence[str]) -> Iterator[str]:
    """A server of its own with these flags, ended at the end; yields its address.

    Raises:
        TupeloError: it did not start; the message holds the end of its log.
    """
    with closing(bind("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "tupelo", "serve", "--port", str(port), *flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url)
            yield url
        except TupeloError as error:
            log.seek(0)
            raise TupeloError(f"{error}; its log ends:\n{log.read()[-2000:]}") from error
        finally:
            process.terminate()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TupeloError(f"the server ended with exit code {process.returncode}")
        try:
            if httpx.get(f"{url}/health", timeout=5.0).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise TupeloError(f"the server was not ready after {START_LIMIT_S:g} s")


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
