"""Traces: whose they are, what spans tell and what they never do, what a lost collector costs."""

import inspect
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from opentelemetry.propagators.textmap import DefaultGetter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tests.system.collector import Collector, Span
from tests.unit.server.conftest import Service, Start

from tupelo.cli import main
from tupelo.engine.messages import Finish
from tupelo.request import FinishReason
from tupelo_server.tracing import spans as spans_module
from tupelo_server.tracing.spans import MAX_SAMPLES
from tupelo_server.tracing.w3c import parent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
SECRET = "a very private prompt"
SERVER = 2  # SPAN_KIND_SERVER


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with Collector() as running:
        yield running


@pytest.fixture
def traced(collector: Collector, start: Start) -> Service:
    return start(enable_trace=True, otlp_traces_endpoint=collector.url)


def named(spans: list[Span]) -> dict[str, Span]:
    found = {span.name: span for span in spans}
    assert len(found) == len(spans), [span.name for span in spans]
    return found


def test_spans_of_a_chat(traced: Service, collector: Collector) -> None:
    """A tree under the caller's span, whose parts follow each other."""
    body = {
        "messages": [{"role": "user", "content": SECRET}],
        "temperature": 0.5,
        "max_tokens": 40,
        "seed": 3,
        "stop": ["never said"],
    }
    headers = {"traceparent": PARENT, "tracestate": "a=1,b=x@y"}
    traced.engine.delay_s = 0.01  # the engine says that it took 6 ms
    reply = traced.http.post("/v1/chat/completions", json=body, headers=headers).json()
    spans = named(collector.trace("/v1/chat/completions"))
    assert set(spans) == {
        "POST /v1/chat/completions", "render", "tokenize", "chat tiny", "queue", "prefill",
        "decode", "detokenize",
    }  # fmt: skip
    http, chat = spans["POST /v1/chat/completions"], spans["chat tiny"]
    assert {(span.trace, span.state) for span in spans.values()} == {(TRACE, "a=1,b=x@y")}
    assert (http.parent, http.kind) == (SPAN, SERVER)
    assert http.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "tupelo.samples": 1,
    }
    for name in ("render", "tokenize", "chat tiny"):
        assert spans[name].parent == http.id
    parts = [spans[name] for name in ("queue", "prefill", "decode", "detokenize")]
    assert {part.parent for part in parts} == {chat.id}
    assert spans["render"].end_ns <= spans["tokenize"].begin_ns <= spans["tokenize"].end_ns
    assert spans["tokenize"].end_ns <= chat.begin_ns == parts[0].begin_ns
    for one, two in pairwise(parts):
        assert one.begin_ns <= one.end_ns == two.begin_ns
    assert parts[-1].end_ns == chat.end_ns <= http.end_ns
    assert chat.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tupelo",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.id": reply["id"],
        "gen_ai.request.stream": False,
        "gen_ai.request.choice.count": 1,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.top_k": 20,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.max_tokens": 40,
        "gen_ai.request.seed": 3,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": reply["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": reply["usage"]["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 2,
        "tupelo.retractions": 0,
    }
    assert {resource["service.name"] for resource in collector.resources} == {"tupelo"}


def test_names_are_the_conventions_own() -> None:
    """Every gen_ai name in the sources is one that OpenTelemetry declares."""
    declared = [name for name in vars(gen_ai_attributes).values() if isinstance(name, str)]
    used = set(re.findall(r'"(gen_ai\.[a-z_.]+)"', inspect.getsource(spans_module)))
    assert len(used) > 15
    assert used <= set(declared)


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/generate", {"text": SECRET, "sampling_params": {"stop": "wor"}}, "text_completion"),
        ("/v1/completions", {"prompt": SECRET, "stop": "wor"}, "text_completion"),
        ("/v1/messages", {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 9,
                          "model": "tiny"}, "chat"),
    ],
)  # fmt: skip
def test_streams_and_what_is_said_of_no_text(
    traced: Service, collector: Collector, path: str, body: dict[str, Any], operation: str
) -> None:
    traced.engine.delay_s = 0.004
    reply = traced.post(path, **body, stream=True)
    assert reply.status_code == 200
    found = collector.trace(path)
    spans = named([span for span in found if span.name not in ("render", "tokenize")])
    sample = spans[f"{operation} tiny"]
    stream = spans["stream"]
    assert sample.begin_ns < stream.begin_ns <= stream.end_ns == sample.end_ns
    assert stream.attributes["tupelo.deltas"] > 1
    assert sample.attributes["gen_ai.request.stream"] is True
    assert sample.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert spans["decode"].end_ns <= sample.end_ns
    for text in (SECRET, "private", "Hello", "wor"):
        assert text.encode() not in collector.raw


def test_errors_are_named_and_not_quoted(traced: Service, collector: Collector) -> None:
    body = {"prompt": SECRET, "max_tokens": 10**6}
    assert traced.post("/v1/completions", **body).status_code == 400
    (http, _) = collector.trace("/v1/completions")
    assert http.attributes["http.response.status_code"] == 400
    assert not http.failed, "a client's error is none of the server's"
    collector.clear()
    traced.engine.refuse = Finish(FinishReason.ABORT, message=SECRET, status=503, code="full")
    assert traced.post("/v1/completions", prompt=SECRET).status_code == 503
    spans = {span.name: span for span in collector.trace("/v1/completions")}
    assert spans["text_completion tiny"].attributes["error.type"] == "full"
    assert spans["text_completion tiny"].failed
    assert spans["POST /v1/completions"].attributes["error.type"] == "503"
    assert spans["POST /v1/completions"].failed
    assert SECRET.encode() not in collector.raw


def test_a_client_that_leaves(traced: Service, collector: Collector) -> None:
    traced.engine.delay_s = 0.05
    traced.engine.script = lambda request: b"x" * 100
    body = {"prompt": "a", "max_tokens": 100, "stream": True}
    with traced.http.stream("POST", "/v1/completions", json=body) as reply:
        next(reply.iter_lines())
    spans = {span.name: span for span in collector.trace("/v1/completions")}
    assert "gen_ai.response.finish_reasons" not in spans["text_completion tiny"].attributes
    assert spans["text_completion tiny"].attributes["gen_ai.usage.output_tokens"] < 100


def test_a_request_has_only_so_many_spans(traced: Service, collector: Collector) -> None:
    reply = traced.post("/v1/completions", prompt=["a"] * (MAX_SAMPLES + 8))
    assert len(reply.json()["choices"]) == MAX_SAMPLES + 8
    spans = collector.trace("/v1/completions")
    assert sum(span.name == "text_completion tiny" for span in spans) == MAX_SAMPLES
    (http,) = [span for span in spans if span.kind == SERVER]
    assert http.attributes["tupelo.samples"] == MAX_SAMPLES + 8


def test_who_is_not_sampled_or_only_probed_has_no_spans(
    traced: Service, collector: Collector
) -> None:
    headers = {"traceparent": PARENT[:-1] + "0"}
    assert traced.http.get("/v1/models", headers=headers).status_code == 200
    for path in ("/health", "/ready", "/metrics"):
        traced.http.get(path)
    traced.http.get("/nothing/" + "private")
    traced.http.request("PROPFIND", "/v1/models")
    spans = collector.spans(lambda spans: len(spans) == 2)
    assert [span.name for span in spans] == ["GET other", "_OTHER /v1/models"]
    assert all(span.parent == "" for span in spans)
    assert b"private" not in collector.raw


MALFORMED = [
    "",
    "x",
    PARENT + "0",
    PARENT + "-extra",
    PARENT.upper(),
    PARENT.replace(TRACE, "0" * 32),
    PARENT.replace(SPAN, "0" * 16),
    PARENT.replace("00-4", "ff-4"),
    PARENT.replace("-01", ""),
    PARENT.replace("4bf", "4bg"),
    "00-" * 100_000,
    "٠" + PARENT[1:],
]


def test_malformed_headers_count_as_absent(traced: Service, collector: Collector) -> None:
    sent = [value.encode() for value in MALFORMED if len(value) < 2000]
    for value in sent:
        headers = [(b"traceparent", value), (b"tracestate", b"a=1")]
        assert traced.http.get("/v1/models", headers=headers).status_code == 200
    twice = [("traceparent", PARENT), ("traceparent", PARENT)]
    assert traced.http.get("/v1/models", headers=twice).status_code == 200
    spans = collector.spans(lambda spans: len(spans) == len(sent) + 1)
    assert {(span.parent, span.state) for span in spans} == {("", "")}
    assert len({span.trace for span in spans} - {TRACE}) == len(spans)


@pytest.mark.parametrize("value", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_parents(value: str) -> None:
    begin = time.thread_time()
    assert parent_of([(b"traceparent", value.encode())]) is None
    assert time.thread_time() - begin < 0.1


def test_parents_are_read_as_opentelemetry_reads_them() -> None:
    """Thousands of headers, each a good one with a few characters changed."""
    rng = random.Random(9)
    propagator, good = TraceContextTextMapPropagator(), 0
    for _ in range(4000):
        text = list(rng.choice([PARENT, PARENT.replace("00-4", "cc-4") + "-x"]))
        for _ in range(rng.randint(0, 2)):
            place = rng.randrange(len(text))
            text[place] = rng.choice("0123456789abcdefAF-g ")
        value = "".join(text)
        context = propagator.extract({"traceparent": [value]}, getter=DefaultGetter())
        expected = get_current_span(context).get_span_context()
        found = parent_of([(b"traceparent", value.encode())])
        if not expected.is_valid:
            assert found is None, value
        else:
            good += 1
            assert found is not None, value
            assert (found.trace_id, found.span_id) == (expected.trace_id, expected.span_id)
            assert found.flags == expected.trace_flags
    assert good > 500


@pytest.mark.parametrize(
    ("values", "members"),
    [
        (["a=1"], [("a", "1")]),
        (["a=1 , b=2", "", "t@v=x y"], [("a", "1"), ("b", "2"), ("t@v", "x y")]),
        (["a=1,,b=2"], [("a", "1"), ("b", "2")]),
        (["a=1,a=2"], []),
        (["A=1"], []),
        (["a"], []),
        (["a=1=2"], []),
        (["a=\x01"], []),
        (["a=é"], []),
        (["a=" + "x" * 256], [("a", "x" * 256)]),
        (["a=" + "x" * 257], []),
        ([",".join(f"k{i}=1" for i in range(32))], [(f"k{i}", "1") for i in range(32)]),
        ([",".join(f"k{i}=1" for i in range(33))], []),
        (["a=1"] + ["b=" + "x" * 250] * 3, []),
    ],
)
def test_states(values: list[str], members: list[tuple[str, str]]) -> None:
    headers = [(b"traceparent", PARENT.encode())]
    headers += [(b"tracestate", value.encode("latin-1")) for value in values]
    found = parent_of(headers)
    assert found is not None
    assert list(found.state) == members


def test_a_lost_collector_costs_nothing(start: Start) -> None:
    """Nobody listens: replies come as ever, and the end is not held up for long."""
    service = start(enable_trace=True, otlp_traces_endpoint="127.0.0.1:9")
    begin = time.monotonic()
    for _ in range(20):
        assert service.post("/v1/completions", prompt="a").status_code == 200
    assert time.monotonic() - begin < 20
    tracing = service.state.tracing
    assert tracing is not None
    begin = time.monotonic()
    tracing.close()
    assert time.monotonic() - begin < 20


def test_nothing_is_imported_without_traces() -> None:
    """FastAPI imports OpenTelemetry's interface where it is there; nothing of ours does more."""
    code = (
        "import sys, json\n"
        "from tupelo_server.config import ServerConfig\n"
        "from tupelo_server.server import open_tracing\n"
        "assert open_tracing(ServerConfig()) is None\n"
        "import tupelo_server.app\n"
        "print(json.dumps(list(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout)
    assert "tupelo_server.tracing.hooks" in loaded
    for name in ("tupelo_server.tracing.spans", "tupelo_server.tracing.export"):
        assert name not in loaded
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto")
    assert not [name for name in loaded if name.startswith(heavy)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--enable-trace"], "pip install 'tupelo-server[trace]'"),
        (["--otlp-traces-endpoint", "a:1"], "--enable-trace"),
    ],
)
def test_what_the_command_line_says(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "tupelo_server.tracing.export", raising=False)
    assert main(["serve", "no-such-model", "--port", "0", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "endpoint",
    ["", "localhost", "a:0", "a:99999", "http://", "http://u:p@h/", "ftp://x", "http://["],
)
def test_bad_endpoints(capsys: pytest.CaptureFixture[str], endpoint: str) -> None:
    flags = ["--port", "0", "--enable-trace", "--otlp-traces-endpoint", endpoint]
    assert main(["serve", "no-such-model", *flags]) == 2
    assert "--otlp-traces-endpoint" in capsys.readouterr().err


def test_where_traces_go_is_not_told(traced: Service, collector: Collector) -> None:
    info = httpx.get(f"{traced.url}/server_info").json()
    assert collector.url not in json.dumps(info)
