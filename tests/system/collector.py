"""A collector of traces on a loopback port: OpenTelemetry's own messages over HTTP or gRPC."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass
class Event:
    """What a span tells of one moment."""

    name: str
    at_ns: int
    attributes: dict[str, Any]


@dataclass
class Span:
    """A span as it arrived. ``parent`` is "" of one that has none."""

    name: str
    trace: str
    id: str
    parent: str
    state: str
    kind: int
    begin_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]
    events: list[Event] = field(default_factory=list)


class Collector:
    """Listens until it is left; ``url`` and ``address`` are its two doors."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.raw = b""

    def __enter__(self) -> "Collector":
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                collector.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        class Service(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
            def Export(self, request: Any, context: Any) -> Any:
                collector.take(request)
                return trace_service_pb2.ExportTraceServiceResponse()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._rpc = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), self._rpc)
        self.address = f"127.0.0.1:{self._rpc.add_insecure_port('127.0.0.1:0')}"
        self._rpc.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._rpc.stop(0).wait()

    def take(self, request: Any) -> None:
        """Keep what a message holds."""
        self.raw += request.SerializeToString()
        for part in request.resource_spans:
            self.resources.append(_attributes(part.resource.attributes))
            for scope in part.scope_spans:
                self._spans += [_span(span) for span in scope.spans]

    def clear(self) -> None:
        """Forget what came."""
        self._spans.clear()
        self.raw = b""

    def spans(self, ready: Callable[[list[Span]], bool], limit_s: float = 15.0) -> list[Span]:
        """All spans, once they are ``ready``, in the order of their beginnings."""
        end = time.monotonic() + limit_s
        while not ready(found := list(self._spans)):
            assert time.monotonic() < end, f"so far: {[span.name for span in found]}"
            time.sleep(0.02)
        return sorted(found, key=lambda span: (span.begin_ns, -span.end_ns))

    def trace(self, name: str) -> list[Span]:
        """The spans, once the one of an HTTP request to the route ``name`` is among them."""
        return self.spans(lambda spans: any(span.name.endswith(" " + name) for span in spans))


def _span(span: Any) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        _attributes(span.attributes),
        [Event(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events],
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(item) for item in found.values] if kind == "array_value" else found
