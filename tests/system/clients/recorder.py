"""A proxy that writes down what clients send: ``python recorder.py SERVER FILE``.

It prints its address, passes requests on, and at its end writes them to FILE as JSON, without what
names a person, a key or a machine. A request that is sent twice is kept once.
"""

import contextlib
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

KEPT_HEADERS = ("accept", "content-type", "user-agent")
"""The others are the connection's, or tell of the machine; keys are never kept."""
_KEYS = ("authorization", "x-api-key")
_LONG = 2000
_ELSEWHERE = ("resp_", '"background":true')
"""In the path or body of requests about responses that another server keeps: they cannot be sent
again."""
_PASSED_ON = ("content-type", "retry-after", "www-authenticate")


def shortened(value: Any) -> Any:
    """A JSON value; a long string, which repeats a word, becomes ``{"$repeat": [word, times]}``."""
    if isinstance(value, dict):
        return {name: shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    if isinstance(value, str) and len(value) > _LONG:
        word = value[: value.index(" ") + 1]
        assert value == word * (len(value) // len(word)), "only made-up texts are long"
        return {"$repeat": [word, len(value) // len(word)]}
    return value


class Server(ThreadingHTTPServer):
    """Threads that end with the process, and no complaint about clients that leave."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Complain, unless the client left."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Recorder(BaseHTTPRequestHandler):
    """Passes one request on, and keeps it."""

    protocol_version = "HTTP/1.1"
    server_url = ""
    requests: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers.get("content-length", 0))))

    def do_DELETE(self) -> None:
        self._pass_on(None)

    def _pass_on(self, body: bytes | None) -> None:
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() in (*KEPT_HEADERS, *_KEYS)
        }
        with (
            httpx.Client(timeout=300) as client,
            client.stream(
                self.command, self.server_url + self.path, content=body, headers=headers
            ) as reply,
        ):
            self._keep(body, reply.status_code)
            self.send_response(reply.status_code)
            for name in _PASSED_ON:
                if name in reply.headers:
                    self.send_header(name, reply.headers[name])
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for data in reply.iter_raw():
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")

    def _keep(self, body: bytes | None, status: int) -> None:
        text = self.path + (body or b"").decode().replace(": ", ":")
        if any(word in text for word in _ELSEWHERE):
            return
        kept = {
            "method": self.command,
            "path": self.path,
            "headers": {
                name.lower(): value
                for name, value in self.headers.items()
                if name.lower() in KEPT_HEADERS
            },
            "key": "wrong" if status == 401 else "right",
            "body": shortened(json.loads(body)) if body else None,
            "status": status,
        }
        if kept not in self.requests:
            self.requests.append(kept)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> int:
    """Record until told to stop; the exit code."""
    url, file = sys.argv[1:]
    Recorder.server_url, Recorder.requests = url, []
    server = Server(("127.0.0.1", 0), Recorder)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    text = json.dumps(Recorder.requests, indent=1, ensure_ascii=False)
    Path(file).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
