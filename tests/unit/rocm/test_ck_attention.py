"""AITER's other attention by signature, its functions standing in: the kit's scenarios."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

import torch
from tests.unit.rocm import stand_ins
from tests.unit.step_inputs import step
from tests.unit.triton.world import kit_cases
from tupelo_rocm import ck_attention
from tupelo_rocm.ck_attention import CkAttention, why_not

from tupelo.backend import Backend, Capabilities, TorchRuntime
from tupelo.batch import Bucket
from tupelo.conformance.case import Case
from tupelo.conformance.levels.attention import attention_cases
from tupelo.conformance.target import Target
from tupelo.specs import AttentionSpec

KIND = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=64, scale=0.125)
LEFT_OUT = ("prefix_groups/", "latent", "chunked_window", "sinks")


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ck_attention, "load", stand_ins.load)


def cases() -> list[object]:
    """Every scenario of the kit that it has."""
    backend = Backend(
        name="ck",
        device="cpu",
        capabilities=Capabilities(
            dtypes=("float16",), page_sizes=(16,), head_dims=(64,), same_step_sharing=True
        ),
        attention=CkAttention,
    )
    found = kit_cases(attention_cases(Target(backend)))
    return [p for p in found if not p.id.removeprefix("attention/").startswith(LEFT_OUT)]


@pytest.mark.parametrize("case", cases())
def test_scenario(case: Case) -> None:
    case.run()


def test_which_kernel_serves_which_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = CkAttention([KIND], 16, 16, TorchRuntime("cpu"))
    mixed = attention.plan(step([1, 1, 5, 300], Bucket(), 16))
    assert len(mixed.lens) == 2
    assert not mixed.fresh, "two of the rows have stored tokens"
    fresh = step([300, 300], Bucket(), 20)
    assert attention.plan(fresh).fresh
    assert attention.plan(fresh).longest == 300
    padded = attention.plan(step([1, 2], Bucket(4, 4), 16))
    assert padded.tables == {}, "rows of a bucket may be empty: core's kernels serve them"


def test_plans_of_decode_buckets_alone_are_refilled() -> None:
    attention = CkAttention([KIND], 16, 16, TorchRuntime("cpu"))
    decoding = step([1, 1], Bucket(4, 4), 16)
    decoding.seq_lens[2:] = 0
    plan = attention.plan(decoding)
    assert attention.plan(decoding, plan) is plan
    assert plan.lens.tolist() == [300, 300, 1, 1]
    assert attention.plan(step([1, 2], Bucket(4, 4), 16), plan) is not plan


def test_refusals_say_why() -> None:
    half = torch.bfloat16
    assert why_not(KIND, 16, half, half) == ""
    assert "16 bits" in why_not(KIND, 16, torch.float32, torch.float32)
    assert "pages of 1 " in why_not(KIND, 1, half, half)
    wide = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=80, scale=0.1)
    assert "head_dim 80" in why_not(wide, 16, half, half)
    many = AttentionSpec(group=0, num_heads=64, num_kv_heads=2, head_dim=64, scale=0.1)
    assert "16 query heads" in why_not(many, 16, half, half)
