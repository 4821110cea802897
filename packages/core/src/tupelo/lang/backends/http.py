"""JSON over HTTP, for backends in other processes."""

import json
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tupelo.errors import EngineUnavailable, InvalidRequest, RequestError

if TYPE_CHECKING:
    import httpx

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CONNECT_S = 10.0


def uses_proxies(url: str) -> bool:
    """Whether the environment's proxies hold for an address: none leads to this machine itself."""
    return urlsplit(url).hostname not in _LOOPBACK


class Http:
    """A server's address, and one pool of connections to it. Safe to use from several threads.

    Args:
        base_url: such as ``http://localhost:30000``.
        headers: of every request.
        verify: whether, or with which file of authorities, certificates are checked.
        timeout_s: for a whole reply to come; None waits for as long as it takes.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        verify: bool | str = True,
        timeout_s: float | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = dict(headers or {})
        self._verify = verify
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._made: httpx.Client | None = None

    def get(self, path: str) -> Any:
        """What a GET answers, parsed."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What a POST answers, parsed; its text where that is no JSON.

        Raises:
            EngineUnavailable: there is no such server.
            InvalidRequest: it refuses the request. RequestError: it failed.
        """
        return self._ask("POST", path, body)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a stream, parsed; ``event:`` lines are not looked at.

        Raises:
            EngineUnavailable, InvalidRequest, RequestError: see ``post``; also in the middle.
        """
        import httpx

        try:
            with self._client.stream("POST", path, json=body) as reply:
                if reply.status_code >= 400:
                    reply.read()
                    raise _refusal(reply)
                for line in reply.iter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        return
                    event = json.loads(data)
                    if event.get("error"):
                        raise RequestError(_message(event) or "the stream failed")
                    yield event
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        with self._lock:
            if self._made is not None:
                self._made.close()
                self._made = None

    @property
    def _client(self) -> "httpx.Client":
        """The pool, made when it is first needed and closed when nobody has this any more."""
        import httpx

        with self._lock:
            if self._made is None:
                self._made = httpx.Client(
                    base_url=self.base_url,
                    headers=self._headers,
                    verify=self._verify,
                    timeout=httpx.Timeout(self._timeout_s, connect=_CONNECT_S),
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
                    trust_env=uses_proxies(self.base_url),
                )
                weakref.finalize(self, self._made.close)
            return self._made

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import httpx

        try:
            reply = self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if reply.status_code >= 400:
            raise _refusal(reply)
        try:
            return reply.json()
        except ValueError:
            return reply.text

    def _unreachable(self, error: Exception) -> EngineUnavailable:
        return EngineUnavailable(
            f"{self.base_url} cannot be reached ({type(error).__name__}: {error}); is it up?"
        )


def _refusal(reply: "httpx.Response") -> RequestError:
    """The error that a reply tells of."""
    try:
        message = _message(reply.json())
    except ValueError:
        message = ""
    kind = InvalidRequest if reply.status_code == InvalidRequest.status else RequestError
    error = kind(message or f"the server answered {reply.status_code}: {reply.text[:200]}")
    error.status = reply.status_code
    return error


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message", ""))
    return str(error or "")
