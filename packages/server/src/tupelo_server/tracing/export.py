"""Where spans go: to a collector, over OTLP, by a thread of OpenTelemetry's own.

Its queue is bounded: spans that a slow or absent collector does not take are dropped, and requests
never wait for it. Imports opentelemetry: loaded only where traces are wanted. Beside what is said
here its own environment variables hold (``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER`` …).
"""

import re
import threading
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from tupelo.errors import ConfigError
from tupelo_server import __version__
from tupelo_server.tracing.hooks import RequestTrace, Tracing
from tupelo_server.tracing.spans import HttpTrace
from tupelo_server.tracing.w3c import Parent

EXPORT_LIMIT_S = 5.0
"""For one message to the collector."""
CLOSE_LIMIT_S = 3.0
"""For what is left when the server ends."""

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)


class Exported(Tracing):
    """Traces that go to a collector."""

    def __init__(self, exporter: SpanExporter) -> None:
        """Send spans through ``exporter``, from now until ``close``."""
        own = {SERVICE_NAME: "tupelo", SERVICE_VERSION: __version__}
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tupelo_server", __version__)

    def begin(self, method: str, route: str, parent: Parent | None) -> RequestTrace | None:
        found = HttpTrace(self._tracer, method, route, parent)
        return found if found.recording else None

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_LIMIT_S)


def exporter_to(endpoint: str) -> SpanExporter:
    """An exporter to ``HOST:PORT`` (OTLP over gRPC, not encrypted) or an ``http(s)://`` URL (OTLP
    over HTTP; ``/v1/traces`` where it has no path).

    Raises:
        ConfigError: it is neither.
    """
    match = _ADDRESS.fullmatch(endpoint)
    if match is not None and 0 < int(match[2]) < 65536:
        return GrpcExporter(endpoint=endpoint, insecure=True, timeout=EXPORT_LIMIT_S)
    wrong = ConfigError(
        f"--otlp-traces-endpoint: got {endpoint!r}; must be HOST:PORT, or a URL that begins with "
        "http:// or https:// and holds no password"
    )
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if not usable or "@" in parts.netloc or parts.query or parts.fragment:
        raise wrong
    url = endpoint if parts.path.strip("/") else endpoint.rstrip("/") + "/v1/traces"
    return HttpExporter(endpoint=url, timeout=EXPORT_LIMIT_S)
