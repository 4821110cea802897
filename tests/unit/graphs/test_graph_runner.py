"""The graph runner over a fake capture, in a whole engine on the CPU: the tokens of eager steps."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.unit.graphs.fakes import CopyingRuntime, FakeCapture

from tupelo.backend import (
    AttentionBackend,
    Backend,
    Capabilities,
    HeadSplit,
    KVPool,
    Plan,
    ReferenceAttention,
    RunnerParts,
    StepInputs,
)
from tupelo.backend.graphs.cut import Begun
from tupelo.backend.graphs.runner import GraphRunner
from tupelo.checkpoint import parse_hf_config
from tupelo.conformance import Target, run_kit
from tupelo.conformance.levels.pooling import models
from tupelo.engine import Engine
from tupelo.engine.build import Source

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3, 2, 3], [8, 4]]
GREEDY = {"temperature": 0, "max_new_tokens": 9, "ignore_eos": True}
SAMPLED = {"temperature": 1.2, "top_k": 20, "seed": 5, "max_new_tokens": 9, "ignore_eos": True}


def _source(window: int | None = None) -> Source:
    """Two layers; with a window, the second has it, and pages of its own."""
    values: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": 1,
    }
    return Source(config=parse_hf_config(values), checkpoint=None, path="tiny", tokenizer_path="")


class _Backend:
    """A CPU backend with the graph runner; keeps the runner and its capture."""

    def __init__(
        self,
        attention: Callable[..., AttentionBackend] = ReferenceAttention,
        groups: int = 0,
        *,
        cut: bool = False,
        tries: bool = False,
    ) -> None:
        self.more = {"cut": cut, "tries": tries}
        self.capture = FakeCapture()
        self.grouped = groups > 0
        self.runner: GraphRunner | None = None
        self.record = Backend(
            name="fake",
            device="cpu",
            capabilities=Capabilities(
                plan_needs_host_lens=True, pipeline_depth=2, prefix_group_tokens=groups
            ),
            runner=self._make,
            attention=attention,
            runtime=CopyingRuntime,
        )

    def _make(self, parts: RunnerParts) -> GraphRunner:
        self.runner = GraphRunner(parts, self.capture, grouped=self.grouped, **self.more)
        return self.runner


def _run(
    backend: Backend,
    params: dict[str, Any],
    source: Source | None = None,
    prompts: list[list[int]] = PROMPTS,
    **options: Any,
) -> list[list[int]]:
    settings: dict[str, Any] = {
        "dtype": "float32",
        "page_size": 4,
        "max_total_tokens": 512,
        "max_running_requests": 5,
        "chunked_prefill_size": 6,
        "check_integrity": True,
    }
    wanted = {"return_logprob": True} if options.pop("logprobs", False) else {}
    with Engine(backend=backend, source=source or _source(), **(settings | options)) as engine:
        replies = engine.generate(input_ids=prompts, sampling_params=params, **wanted)
    return [reply["output_ids"] for reply in replies]


@pytest.fixture(scope="module")
def eager() -> Backend:
    """Core's defaults, which capture nothing."""
    return Backend(name="eager", device="cpu", capabilities=Capabilities(plan_needs_host_lens=True))


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_same_tokens_as_eager_steps(eager: Backend, params: dict[str, Any], depth: int) -> None:
    fake = _Backend()
    assert _run(fake.record, params, pipeline_depth=depth) == _run(eager, params)
    assert fake.runner is not None
    assert fake.runner.num_replays >= 8
    assert fake.runner.num_eager >= 3


def test_penalties_biases_and_logprobs_come_after_the_graph(eager: Backend) -> None:
    params = GREEDY | {"repetition_penalty": 1.5, "logit_bias": {"7": 3.0}}
    fake = _Backend()
    assert _run(fake.record, params, logprobs=True) == _run(eager, params, logprobs=True)
    assert fake.runner is not None
    assert fake.runner.num_replays >= 8


def test_page_groups_have_tables_of_their_own(eager: Backend) -> None:
    source = _source(window=6)
    assert _run(_Backend().record, GREEDY, source) == _run(eager, GREEDY, source)


def test_nothing_is_captured_after_warm_up() -> None:
    fake = _Backend()
    _run(fake.record, GREEDY)
    assert fake.runner is not None
    assert fake.runner.num_captures == len(fake.capture.graphs) == 4  # 1, 2, 4, 5 rows
    assert sum(graph.num_replays for graph in fake.capture.graphs) == fake.runner.num_replays


def test_graphs_that_are_tried_are_replayed_all_the_same(eager: Backend) -> None:
    fake = _Backend(tries=True)
    assert _run(fake.record, SAMPLED) == _run(eager, SAMPLED)
    assert fake.runner is not None
    assert fake.runner.num_captures == 4
    assert fake.runner.num_replays >= 8


@pytest.mark.parametrize("failure", ["refuses", "forgets"])
def test_graphs_that_fail_their_trial_are_not_replayed(
    eager: Backend,
    failure: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = _Backend(tries=True)

    def capture(fn: Callable[[], Any]) -> Any:
        if failure == "refuses":
            raise RuntimeError("an op cannot be captured\nat frame 0")
        graph, value = FakeCapture()(fn)
        monkeypatch.setattr(graph, "replay", lambda: None)
        return graph, value

    monkeypatch.setattr(fake, "capture", capture)
    assert _run(fake.record, GREEDY) == _run(eager, GREEDY)
    told = {"refuses": "an op cannot be captured", "forgets": "captured, they gave something else"}
    assert [r.getMessage() for r in caplog.records if "eagerly" in r.getMessage()] == [
        f"decode steps run eagerly: {told[failure]}"
    ]
    assert fake.runner is not None
    assert fake.runner.num_replays == 0


SHARING = [[7, 1, 8, 2, 8, 1, 8, 2, 8, *ids] for ids in PROMPTS] + [[5, 5]]


@pytest.mark.parametrize(
    ("attention", "window"), [("reference", None), ("reference", 6), ("triton", None)]
)
def test_steps_with_prefix_groups_have_graphs_of_their_own(
    eager: Backend, attention: str, window: int | None
) -> None:
    made: Callable[..., AttentionBackend] = ReferenceAttention
    if attention == "triton":
        pytest.importorskip("triton", reason="the portable kernels need triton")
        from tupelo.triton.attention import TritonAttention
        from tupelo.triton.tuning import AttentionTuning

        made = partial(TritonAttention, tuning=AttentionTuning(shared_programs=8))
    fake, source = _Backend(made, groups=1), _source(window)
    assert _run(fake.record, GREEDY, source, SHARING) == _run(eager, GREEDY, source, SHARING)
    assert fake.runner is not None
    assert fake.runner.num_captures == 4 + 1  # one rung of groups: 5 rows
    assert fake.capture.graphs[0].num_replays >= 4


class _Fresh(ReferenceAttention):
    """Attention that cannot refill a plan."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        return super().plan(inputs)


def test_attention_that_cannot_refill_runs_eagerly(
    eager: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    fake = _Backend(_Fresh)
    assert _run(fake.record, GREEDY) == _run(eager, GREEDY)
    assert fake.runner is not None
    assert fake.runner.num_replays == 0
    assert "cannot refill" in caplog.text


def test_without_capture_everything_is_eager(eager: Backend) -> None:
    plain = replace(eager, runner=lambda parts: GraphRunner(parts, None))
    assert _run(plain, GREEDY) == _run(eager, GREEDY)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_model_that_pools_captures_nothing(name: str) -> None:
    """No step of it decodes; its vectors are those of eager steps, whatever is in flight."""
    source = models(16)[name]
    backend = _Backend()
    settings: dict[str, Any] = {"dtype": "float32", "page_size": 4, "max_total_tokens": 512}
    with Engine(backend=backend.record, source=source, **settings) as engine:
        got = [reply["embedding"] for reply in engine.encode(input_ids=PROMPTS)]
    assert backend.runner is not None
    assert backend.runner.num_captures == backend.runner.num_replays == 0
    assert backend.runner.num_eager > 0
    plain = Backend(name="plain", device="cpu", capabilities=backend.record.capabilities)
    with Engine(backend=plain, source=source, **settings) as engine:
        want = [reply["embedding"] for reply in engine.encode(input_ids=PROMPTS)]
    for a, b in zip(got, want, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_prompt_steps_in_pieces_give_the_tokens_of_eager_steps(
    eager: Backend, params: dict[str, Any], window: int | None
) -> None:
    fake, source = _Backend(cut=True), _source(window)
    assert _run(fake.record, params, source) == _run(eager, params, source)
    assert fake.runner is not None
    assert fake.runner.num_cut >= 3
    # One piece more than there are layers; replayed once a step, and for each of the checks.
    assert len(fake.capture.pieces) == 3
    assert {p.num_replays for p in fake.capture.pieces} == {fake.runner.num_cut + 1}


class _CutReference(ReferenceAttention):
    """Stores in its first part, and attends in its second."""

    def begin_qkv(
        self,
        qkv: torch.Tensor,
        positions: torch.Tensor,
        split: HeadSplit,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Any,
    ) -> Begun | None:
        q, k, v = split(qkv, positions)
        mapping = plan.store[self._specs[spec].group]
        for pool, new in zip(kv.buffers(layer), (k, v), strict=True):
            places = torch.where(mapping < 0, pool.shape[0] * pool.shape[1] - 1, mapping)
            pool.flatten(0, 1).index_copy_(0, places, new)
        return Begun(q, k, v, torch.empty_like(q))

    def finish_qkv(self, begun: Begun, spec: int, layer: int, kv: KVPool, plan: Any) -> None:
        kind = self._specs[spec]
        gather = plan.gather[kind.group]
        pools = [pool.flatten(0, 1) for pool in kv.buffers(layer)]
        q = begun.q[: len(gather)]
        begun.out[: len(q)] = self._attend(q, *pools, gather, plan.distance, kind, None)


@pytest.mark.parametrize("window", [None, 6])
def test_attention_that_can_be_cut_begins_in_the_pieces(
    eager: Backend, monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    fake, source = _Backend(_CutReference, cut=True), _source(window)
    assert _run(fake.record, GREEDY, source) == _run(eager, GREEDY, source)
    assert fake.runner is not None
    most = fake.runner.num_cut
    assert most >= 3
    assert len(fake.capture.pieces) == 3
    # What is captured has too few programs for long decode rows: their steps run eagerly.
    monkeypatch.setattr("tupelo.backend.graphs.pieces.LONGEST_DECODED", 0)
    fake = _Backend(_CutReference, cut=True)
    assert _run(fake.record, GREEDY) == _run(eager, GREEDY)
    assert fake.runner is not None
    assert 0 < fake.runner.num_cut < most


class _NeverCut(_CutReference):
    """Can be asked, as what has several implementations can."""

    def begin_qkv(self, *args: Any) -> None:
        return None


@pytest.mark.parametrize("attention", [ReferenceAttention, _CutReference, _NeverCut])
def test_the_kit_is_green_where_steps_may_be_cut(
    attention: Callable[..., AttentionBackend],
) -> None:
    fake = _Backend(attention, cut=True)
    for only in ("runner/", "attention/packed_qkv/"):
        report = run_kit(Target(fake.record), (2,), only=only)
        assert report.green, [r.message for r in report.results if r.id in report.failed_ids]


def test_pieces_that_give_something_else_are_not_used(eager: Backend) -> None:
    class Wrong(FakeCapture):
        def keep(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor + 1

    fake = _Backend(cut=True)
    fake.capture = Wrong()
    assert _run(fake.record, GREEDY) == _run(eager, GREEDY)
    assert fake.runner is not None
    assert fake.runner.num_cut == 0


def test_a_model_that_attends_by_other_ways_is_not_cut(eager: Backend) -> None:
    values = {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "first_k_dense_replace": 2,
        "num_attention_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "max_position_embeddings": 64,
    }
    source = Source(config=parse_hf_config(values), checkpoint=None, path="tiny", tokenizer_path="")
    fake = _Backend(cut=True)
    want, got = (
        replace(b, capabilities=replace(b.capabilities, latent_kv=True))
        for b in (eager, fake.record)
    )
    assert _run(got, GREEDY, source) == _run(want, GREEDY, source)
    assert fake.runner is not None
    assert fake.runner.num_cut == 0
