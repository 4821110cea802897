"""Traces: spans of what a request goes through, sent to an OpenTelemetry collector.

In reading order: ``w3c.py`` (whose trace a request belongs to), ``hooks.py`` (what the rest of the
server calls, nothing while there are no traces), ``watch.py`` (a span for each HTTP request),
``spans.py`` (those inside), ``export.py`` (where they go). ``spans.py`` and ``export.py`` alone
import opentelemetry, the extra ``tupelo-server[trace]``; they are imported when
``--enable-trace`` is given. No span holds text of a prompt or an output.
"""
