"""Whole steps of the backend's parts in an engine, on the CPU's memory: the tokens of the
references.

Triton's kernels are interpreted, AITER's attention stands in, and graphs run their functions again;
choosing, trying, planning, packing, storing and sampling are real.
"""

import logging
from functools import partial
from typing import Any

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

import torch
from tests.unit.graphs.fakes import CopyingRuntime, FakeCapture
from tests.unit.rocm import stand_ins
from tests.unit.tiny_models import GREEDY, PROMPTS, configs
from tupelo_rocm import aiter_attention, ck_attention
from tupelo_rocm.arch import TESTED
from tupelo_rocm.attention import RocmAttention
from tupelo_rocm.kernels import best_tokens, rocm_kernels
from tupelo_rocm.options import Options

from tupelo.backend import Backend, Capabilities, GraphGrade, RunnerParts
from tupelo.backend.graphs.runner import GraphRunner
from tupelo.checkpoint import parse_hf_config
from tupelo.engine import Engine
from tupelo.engine.build import Source

MODELS = configs(head_dim=64)


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiter_attention, "load", stand_ins.load)
    monkeypatch.setattr(ck_attention, "load", stand_ins.load)


class _Stand:
    """The backend's parts; keeps the runner."""

    def __init__(self, attention: str) -> None:
        self.runner: GraphRunner | None = None
        options, arch = Options(attention=attention), TESTED["gfx942"]
        kernels, _ = rocm_kernels(options, arch, None, "cpu")
        self.record = Backend(
            name="stand_in",
            device="cpu",
            contract=1,
            capabilities=Capabilities(
                dtypes=("float16",),
                page_sizes=(16,),
                graph=GraphGrade.CAPTURED,
                same_step_sharing=True,
                plan_needs_host_lens=True,
                pipeline_depth=2,
            ),
            kernels=kernels,
            attention=partial(RocmAttention, options, arch, 4),
            runner=self._make,
            runtime=CopyingRuntime,
        ).check()

    def _make(self, parts: RunnerParts) -> GraphRunner:
        self.runner = GraphRunner(parts, FakeCapture(), argmax=best_tokens())
        return self.runner


def _source(model: str) -> Source:
    config = parse_hf_config(MODELS[model])
    return Source(config=config, checkpoint=None, path="tiny", tokenizer_path="")


def _run(backend: Backend, model: str) -> list[list[int]]:
    settings: dict[str, Any] = {
        "dtype": "float16",
        "page_size": 16,
        "max_total_tokens": 512,
        "max_running_requests": 3,
        "chunked_prefill_size": 6,
        "check_integrity": True,
    }
    with Engine(backend=backend, source=_source(model), **settings) as engine:
        replies = engine.generate(input_ids=PROMPTS, sampling_params=GREEDY)
    return [reply["output_ids"] for reply in replies]


@pytest.fixture(scope="module")
def want() -> dict[str, list[list[int]]]:
    """Each model's tokens by the references."""
    capabilities = Capabilities(dtypes=("float16",), plan_needs_host_lens=True)
    plain = Backend(name="plain", device="cpu", capabilities=capabilities)
    return {model: _run(plain, model) for model in MODELS}


@pytest.mark.parametrize(
    ("model", "attention"),
    [("dense", "auto"), ("moe", "auto"), ("windowed", "auto"), ("moe", "ck"), ("dense", "triton")],
)
def test_a_decoders_tokens_are_the_references(
    want: dict[str, list[list[int]]],
    model: str,
    attention: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = _Stand(attention)
    with caplog.at_level(logging.INFO):
        assert _run(made.record, model) == want[model]
    assert made.runner is not None
    assert made.runner.num_replays >= 4
    chosen = "aiter" if attention == "auto" else attention
    assert f": {chosen}" in caplog.text
    assert "disabled" not in caplog.text


def test_a_wrong_attention_is_disabled_by_name_and_service_goes_on(
    want: dict[str, list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def sees_too_much(**given: Any) -> Any:
        return stand_ins.unified_attention(**(given | {"window_size": (-1, 0)}))

    monkeypatch.setitem(stand_ins.FUNCTIONS, "unified_attention", sees_too_much)
    with caplog.at_level(logging.WARNING):
        assert _run(_Stand("auto").record, "windowed") == want["windowed"]
    assert "not aiter: it is disabled: it is off by" in caplog.text


def test_what_a_library_raises_is_no_end_either(
    want: dict[str, list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_compiler(**given: Any) -> Any:
        raise FileNotFoundError("hipcc")

    monkeypatch.setitem(stand_ins.FUNCTIONS, "unified_attention", no_compiler)
    with caplog.at_level(logging.WARNING):
        assert _run(_Stand("auto").record, "dense") == want["dense"]
    assert "FileNotFoundError: hipcc" in caplog.text


def test_types_that_it_does_not_compute_in_are_core_s() -> None:
    made = RocmAttention(Options(), TESTED["gfx1100"], 4, [], 16, 8, CopyingRuntime("cpu"))
    assert made.vendors() == {}, "AITER has no sizes for RDNA"
    asked = RocmAttention(
        Options(attention="aiter"), TESTED["gfx1100"], 4, [], 16, 8, CopyingRuntime("cpu")
    )
    assert list(asked.vendors()) == ["aiter"]
    assert torch.float32 not in aiter_attention.DTYPES
