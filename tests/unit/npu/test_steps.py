"""Whole steps of the backend's parts in an engine, on the CPU's memory: the tokens of the
references.

torch-npu's operators are stand-ins, and graphs run their functions again; choosing, trying,
planning, routing, storing and sampling are real.
"""

import logging
from functools import partial
from typing import Any

import pytest
from tests.unit.graphs.fakes import CopyingRuntime, FakeCapture
from tests.unit.npu import stand_ins
from tests.unit.tiny_models import GREEDY, PROMPTS, configs
from tupelo_npu.attention import NpuAttention
from tupelo_npu.kernels import npu_kernels
from tupelo_npu.options import Options

from tupelo.backend import Backend, Capabilities, GraphGrade, RunnerParts
from tupelo.backend.graphs.runner import GraphRunner
from tupelo.checkpoint import parse_hf_config
from tupelo.engine import Engine
from tupelo.engine.build import Source
from tupelo.ops.trial import Trials

stand_ins.install()

MODELS = configs(head_dim=32, max_tokens=256)
FUSED = "npu_fused_infer_attention_score"


class _Stand:
    """The backend's parts; keeps the runner."""

    def __init__(self, **more: Any) -> None:
        self.runner: GraphRunner | None = None
        options = Options(triton=False, **more)
        self.record = Backend(
            name="stand_in",
            device="cpu",
            contract=1,
            capabilities=Capabilities(
                dtypes=("float16",),
                page_sizes=(128,),
                graph=GraphGrade.CAPTURED,
                same_step_sharing=True,
                plan_needs_host_lens=True,
                pipeline_depth=2,
            ),
            kernels=npu_kernels(options, Trials("cpu"))[0],
            attention=partial(NpuAttention, options),
            runner=self._make,
            runtime=CopyingRuntime,
        ).check()

    def _make(self, parts: RunnerParts) -> GraphRunner:
        self.runner = GraphRunner(parts, FakeCapture())
        return self.runner


def _run(backend: Backend, model: str) -> list[list[int]]:
    config = parse_hf_config(MODELS[model])
    source = Source(config=config, checkpoint=None, path="tiny", tokenizer_path="")
    settings: dict[str, Any] = {
        "dtype": "float16",
        "page_size": 128,
        "max_total_tokens": 1024,
        "max_running_requests": 3,
        "chunked_prefill_size": 6,
        "check_integrity": True,
    }
    with Engine(backend=backend, source=source, **settings) as engine:
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
    [("dense", "auto"), ("moe", "auto"), ("windowed", "auto"), ("windowed", "rows")],
)
def test_a_decoders_tokens_are_the_references(
    want: dict[str, list[list[int]]],
    model: str,
    attention: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stand_ins.CALLS.clear()
    made = _Stand(attention=attention)
    with caplog.at_level(logging.INFO):
        assert _run(made.record, model) == want[model]
    assert made.runner is not None
    assert made.runner.num_replays >= 4
    assert f": {'fused' if attention == 'auto' else attention}" in caplog.text
    assert "disabled" not in caplog.text
    called = {FUSED, "_npu_reshape_and_cache", "npu_add_rms_norm", "npu_rotary_mul"}
    if model == "moe":
        called |= {"npu_moe_gating_top_k_softmax", "npu_grouped_matmul", "npu_moe_init_routing_v2"}
        called |= {"npu_moe_finalize_routing"}
    assert called <= set(stand_ins.CALLS)


def test_a_wrong_attention_is_disabled_by_name_and_service_goes_on(
    want: dict[str, list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def forgets_the_window(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("sparse_mode") == 4:
            kwargs["sparse_mode"] = 3
        return stand_ins.fused_attention(*args, **kwargs)

    monkeypatch.setitem(stand_ins.WRONG, FUSED, forgets_the_window)
    with caplog.at_level(logging.WARNING):
        assert _run(_Stand().record, "windowed") == want["windowed"]
    assert "not fused: it is disabled: it is off by" in caplog.text
