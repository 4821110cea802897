"""Traces of a live server, which a collector takes over gRPC: from HTTP down to the steps."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.collector import Collector, Span
from tests.system.harness import ServerProcess
from tests.system.tiny_model import write_letter_model

TRACE, SPAN = "5bf92f3577b34da6a3ce929d0e0e4736", "10f067aa0ba902b7"
NUM_TOKENS = 100


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ServerProcess, Collector]]:
    """A server of a tiny model, which computes prompts in pieces, and the collector it sends to."""
    folder = tmp_path_factory.mktemp("traced")
    write_letter_model(folder)
    with Collector() as collector:
        flags = ["--load-format", "dummy", "--chunked-prefill-size", "16", "--page-size", "8"]
        flags += ["--enable-trace", "--otlp-traces-endpoint", collector.address]
        environment = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OMP_NUM_THREADS": "1"}
        with ServerProcess(folder, folder, *flags, environment=environment) as server:
            yield server, collector


def ask(server: ServerProcess, prompt: str, *, stream: bool) -> Any:
    body = {"prompt": prompt, "max_tokens": NUM_TOKENS, "ignore_eos": True, "stream": stream}
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=7"}
    url = f"{server.url}/v1/completions"
    reply = httpx.post(url, json=body, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply


def within(child: Span, parent: Span) -> bool:
    same = child.parent == parent.id and child.trace == parent.trace
    return same and parent.begin_ns <= child.begin_ns <= child.end_ns <= parent.end_ns


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_spans_from_http_to_step(world: tuple[ServerProcess, Collector], stream: bool) -> None:
    server, collector = world
    collector.clear()
    ask(server, ("xyz" if stream else "é") * 30 + "the sea", stream=stream)
    spans = {span.name: span for span in collector.trace("/v1/completions")}
    http, sample = spans["POST /v1/completions"], spans[f"text_completion {_name(spans)}"]
    last = "stream" if stream else "detokenize"
    queue, prefill, decode = (spans[name] for name in ("queue", "prefill", "decode"))
    assert len(spans) == 7
    assert (http.trace, http.parent, http.state) == (TRACE, SPAN, "vendor=7")
    assert within(spans["tokenize"], http)
    assert within(sample, http)
    for part in (queue, prefill, decode, spans[last]):
        assert within(part, sample)
    assert queue.end_ns == prefill.begin_ns
    assert prefill.end_ns == decode.begin_ns < decode.end_ns
    assert spans[last].end_ns == sample.end_ns
    used = sample.attributes
    assert used["gen_ai.usage.output_tokens"] == NUM_TOKENS
    num_prompt = used["gen_ai.usage.input_tokens"]
    events = [*prefill.events, *decode.events]
    assert sum(event.attributes["tupelo.step.prompt_tokens"] for event in prefill.events) == (
        num_prompt - used["gen_ai.usage.cache_read.input_tokens"]
    )
    assert prefill.attributes["tupelo.steps"] >= num_prompt // 16
    assert sum(event.attributes["tupelo.step.tokens"] for event in events) == NUM_TOKENS
    assert decode.attributes["tupelo.steps"] == NUM_TOKENS - 1
    assert len(events) <= 64
    for one, two in pairwise(events):
        first, count = one.attributes["tupelo.step.first"], one.attributes["tupelo.step.count"]
        assert first + count <= two.attributes["tupelo.step.first"]
        assert one.at_ns <= two.at_ns
    for span in (prefill, decode):
        assert all(span.begin_ns <= event.at_ns <= span.end_ns for event in span.events)


def test_a_stopping_server_sends_what_is_left(tmp_path: Path) -> None:
    """The spans of the last request arrive although the queue is emptied once a minute."""
    write_letter_model(tmp_path)
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OMP_NUM_THREADS": "1"}
    with Collector() as collector:
        flags = ["--load-format", "dummy", "--enable-trace"]
        flags += ["--otlp-traces-endpoint", collector.url]
        with ServerProcess(tmp_path, tmp_path, *flags, environment=environment) as server:
            ask(server, "the sea", stream=False)
            assert not collector.raw
        assert {span.trace for span in collector.trace("/v1/completions")} == {TRACE}
        assert "Traceback" not in server.log


def _name(spans: dict[str, Span]) -> str:
    (name,) = [name for name in spans if name.startswith("text_completion ")]
    return name.partition(" ")[2]
