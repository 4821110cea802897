"""CANN's fused attention, computed by a stand-in by its documentation, through the adapter: the
kit's scenarios, all prompts in a call and a call for each."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from tests.unit.npu import stand_ins
from tests.unit.triton.world import kit_cases
from tupelo_npu import kv_write
from tupelo_npu.attention import NpuAttention
from tupelo_npu.fused_attention import FusedAttention, why_not
from tupelo_npu.graphs import HostLengths
from tupelo_npu.options import Options

from tupelo.backend import Backend, Capabilities, TorchKVPool, TorchRuntime
from tupelo.conformance.case import Case
from tupelo.conformance.levels.attention import attention_cases
from tupelo.conformance.target import Target
from tupelo.specs import AttentionSpec, KVSpec

stand_ins.install()

KIND = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)
LEFT_OUT = (
    *(
        "prefix_groups/",
        "latent",
        "chunked_window",
        "soft_cap",
        "sinks",
        "dtype/",
        "batch_inv",
        "packed_qkv",
    ),
    *("geometry/", "window/padding/page_512", "many_rows"),
)
"""What it leaves to whoever chose it; groups, which it ignores; repetitions of the same code."""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    stand_ins.CALLS.clear()
    yield
    stand_ins.WRONG.clear()


def cases(by_rows: bool) -> list[Any]:
    """Scenarios of the kit."""
    backend = Backend(
        name="fused",
        device="cpu",
        capabilities=Capabilities(
            dtypes=("float16",),
            page_sizes=(128,),
            head_dims=(16, 80, 128),
            same_step_sharing=True,
            plan_needs_host_lens=True,
        ),
        attention=partial(FusedAttention, lengths=HostLengths(), by_rows=by_rows),
    )
    found = kit_cases(attention_cases(Target(backend)))
    return [p for p in found if not p.id.removeprefix("attention/").startswith(LEFT_OUT)]


@pytest.mark.parametrize("case", cases(by_rows=False))
def test_scenario_with_all_prompts_in_a_call(case: Case) -> None:
    case.run()
    assert "npu_fused_infer_attention_score" in stand_ins.CALLS


@pytest.mark.parametrize("case", cases(by_rows=True))
def test_scenario_with_a_call_for_each_prompt(case: Case) -> None:
    case.run()


def test_scenarios_were_not_left_out() -> None:
    ids = {p.id.split("/")[1] for p in cases(by_rows=True)}
    assert {"prefill", "decode", "mixed", "chunked", "padding", "refilled_plan", "window"} <= ids
    assert "shared_in_the_same_step" in ids


def test_refusals_say_why() -> None:
    half, wide = torch.float16, torch.float32
    assert why_not(KIND, 128, half, half) == ""
    assert "16 bits" in why_not(KIND, 128, wide, wide)
    assert "16 bits" in why_not(KIND, 128, half, wide)
    assert "pages of 16" in why_not(KIND, 16, half, half)

    def spec(**sizes: int) -> AttentionSpec:
        return AttentionSpec(group=0, scale=1.0, **sizes)

    odd = spec(num_heads=4, num_kv_heads=2, head_dim=40)
    assert "no multiple of 16" in why_not(odd, 128, half, half)
    many = spec(num_heads=128, num_kv_heads=1, head_dim=64)
    assert "at most 64" in why_not(many, 128, half, half)
    large = spec(num_heads=256, num_kv_heads=8, head_dim=256)
    assert "more than a token may have" in why_not(large, 128, half, half)


def _chosen(caplog: pytest.LogCaptureFixture, **options: Any) -> str:
    """What is logged of the choice for one kind of layers."""
    runtime = TorchRuntime("cpu")
    made = NpuAttention(Options(triton=False, **options), [KIND], 128, 4, runtime)
    stored = KVSpec(group=0, layers=(0,), num_kv_heads=2, head_dim=16, dtype="float16")
    pool = TorchKVPool([stored], [3], 128, runtime)
    with caplog.at_level(logging.INFO):
        made._choose(0, torch.float16, 0, pool)
    return caplog.text


def test_all_prompts_in_a_call_come_first(caplog: pytest.LogCaptureFixture) -> None:
    assert ": fused" in _chosen(caplog)


def test_without_paged_prompts_at_once_each_is_a_call(caplog: pytest.LogCaptureFixture) -> None:
    """As releases whose TND layout has no pages."""

    def no_pages(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("input_layout") == "TND":
            raise RuntimeError("EZ9999: TND does not support page attention\nmore")
        return stand_ins.fused_attention(*args, **kwargs)

    stand_ins.WRONG["npu_fused_infer_attention_score"] = no_pages
    said = _chosen(caplog)
    assert ": rows (not fused: it is disabled: RuntimeError: EZ9999" in said


def test_a_wrong_attention_is_disabled_by_name(caplog: pytest.LogCaptureFixture) -> None:
    def sees_too_much(*args: Any, **kwargs: Any) -> Any:
        kwargs["actual_seq_lengths_kv"] = [n + 1 for n in kwargs["actual_seq_lengths_kv"]]
        return stand_ins.fused_attention(*args, **kwargs)

    stand_ins.WRONG["npu_fused_infer_attention_score"] = sees_too_much
    said = _chosen(caplog)
    assert "not fused: it is disabled: it is off by" in said
    assert "not rows: it is disabled" in said
    assert ": reference" in said


def test_it_can_be_forbidden(caplog: pytest.LogCaptureFixture) -> None:
    assert ": reference" in _chosen(caplog, vendor=False)


def test_the_first_writer_that_stores_right_is_used(caplog: pytest.LogCaptureFixture) -> None:
    pool = torch.zeros(4, 128, 2, 16, dtype=torch.float16)
    assert kv_write.choose_writer(pool) is kv_write.calls.reshape_and_cache

    def one_further(k: Any, v: Any, k_pool: Any, v_pool: Any, places: Any) -> None:
        stand_ins.reshape_and_cache(k, v, k_pool, v_pool, places + 1)

    stand_ins.WRONG["_npu_reshape_and_cache"] = one_further
    with caplog.at_level(logging.WARNING):
        assert kv_write.choose_writer(pool) is kv_write.calls.scatter_kv
    assert "_npu_reshape_and_cache is disabled: it stores something else" in caplog.text

    def raises(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("aclnnScatterPaKvCache: not found")

    stand_ins.WRONG["npu_scatter_pa_kv_cache"] = raises
    with caplog.at_level(logging.WARNING):
        assert kv_write.choose_writer(pool) is kv_write.index_copy
    assert "npu_scatter_pa_kv_cache is disabled: RuntimeError: aclnnScatter" in caplog.text
    assert not pool.any()
