"""The load generator: its prompts, its arithmetic, and a run against a server."""

import json
from pathlib import Path

import pytest
from tests.unit.server.conftest import Service

from tupelo.cli import main
from tupelo_server.bench.client import Sample
from tupelo_server.bench.datasets import Shape, fixed_text, random_ids, shared_prefix
from tupelo_server.bench.report import percentile, summarise

SHAPE = Shape(num_requests=12, input_len=8, vocab_size=100, groups=3, prefix_len=20)


def test_random_ids_repeat_and_differ() -> None:
    prompts = random_ids(SHAPE)
    assert prompts == random_ids(SHAPE)
    assert len({tuple(p) for p in prompts}) == 12
    assert {len(p) for p in prompts} == {8}
    assert all(10 <= int(i) < 100 for p in prompts for i in p)


def test_shared_prefixes() -> None:
    prompts = shared_prefix(SHAPE)
    assert len({tuple(p[:20]) for p in prompts}) == 3
    assert len({tuple(p) for p in prompts}) == 12
    assert {len(p) for p in prompts} == {28}


def test_fixed_text_goes_round() -> None:
    assert fixed_text(["a", "b"], 3) == ["a", "b", "a"]


def test_percentiles_interpolate() -> None:
    values = [float(v) for v in range(1, 102)]
    assert [percentile(values, p) for p in (0, 50, 90, 99, 100)] == [1, 51, 91, 100, 101]
    assert percentile([5.0], 99) == 5


def test_figures_of_known_times() -> None:
    good = Sample(10.0, [10.5, 10.6, 10.8], 11.0, input_tokens=7, output_tokens=3)
    late = Sample(11.0, [12.5], 15.0, input_tokens=7, output_tokens=1)
    bad = Sample(10.0, [], 10.1, error="429: full")
    figures = summarise([good, late, bad])
    assert (figures["requests"], figures["failed"], figures["duration_s"]) == (3, 1, 5.0)
    assert figures["output_tokens_per_s"] == pytest.approx(4 / 5)
    assert figures["ttft_ms"]["mean"] == pytest.approx(1000)
    assert figures["tpot_ms"]["p50"] == pytest.approx(150)
    assert figures["itl_ms"]["mean"] == pytest.approx(150)
    assert figures["e2e_ms"]["p50"] == pytest.approx(2500)


def test_a_run_over_ids(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    flags = ["--num-requests", "6", "--input-len", "5", "--output-len", "4", "--concurrency", "2"]
    code = main(["bench", "--url", service.url, "--json", str(target), *flags, "--warmup", "0"])
    assert code == 0
    assert "time to first token" in capsys.readouterr().out
    figures = json.loads(target.read_text())
    assert (figures["input_tokens"], figures["output_tokens"]) == (30, 24)
    assert len(service.engine.requests) == 6
    assert all(r.params.ignore_eos and r.params.temperature == 0 for r in service.engine.requests)


def test_a_run_over_chat(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--chat", "--dataset", "text", "--text", "Hi", "--num-requests", "3", "--rate", "50"]
    assert main(["bench", "--url", service.url, "--json", "-", "--no-ignore-eos", *flags]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["failed"] == 0
    assert figures["output_tokens"] == 3 * 14


def test_failures_are_counted_and_said(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.engine.broken = ValueError("no")
    assert main(["bench", "--url", service.url, "--num-requests", "2"]) == 1
    assert "failed: 500" in capsys.readouterr().err


def test_no_server_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--url", "http://127.0.0.1:9"]) == 2
    assert "is a server there?" in capsys.readouterr().err
