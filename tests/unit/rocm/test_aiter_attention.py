"""AITER's own Triton attention, interpreted, through the adapter: the kit's scenarios."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

import torch
from tests.unit.rocm.aiter_here import enter, needs_aiter
from tests.unit.step_inputs import step
from tests.unit.triton.world import kit_cases
from tupelo_rocm.aiter_attention import AiterAttention, why_not

from tupelo.backend import Backend, Capabilities, StepInputs, TorchKVPool, TorchRuntime
from tupelo.backend.rows import RowPlan
from tupelo.batch import Bucket
from tupelo.conformance.case import Case
from tupelo.conformance.levels.attention import attention_cases
from tupelo.conformance.target import Target
from tupelo.specs import AttentionSpec, KVSpec

# Interpreted, it computes for rows of a tile that see nothing, and throws that away.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

KIND = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)

LEFT_OUT = ("prefix_groups/", "latent", "chunked_window", "packed_qkv", "dtype/float32_kv_float16")
"""What it does not have, or leaves to whoever chose it; and groups, which it ignores."""


def cases(attention: type[AiterAttention] = AiterAttention, *names: str) -> list[object]:
    """Scenarios of the kit: all that it has, or the named ones."""
    backend = Backend(
        name="aiter",
        device="cpu",
        capabilities=Capabilities(
            dtypes=("float32", "float16"),
            page_sizes=(16,),
            head_dims=(16, 80, 128),
            sinks=True,
            same_step_sharing=True,
        ),
        attention=attention,
    )
    found = kit_cases(attention_cases(Target(backend)))
    known = {p.id.removeprefix("attention/"): p for p in found}
    return [known[n] for n in names or known if not n.startswith(LEFT_OUT)]


@needs_aiter
@pytest.mark.parametrize("case", cases())
def test_scenario(case: Case) -> None:
    enter()
    case.run()


class InSegments(AiterAttention):
    """As for rows that are long: keys are cut into segments, which a second launch merges."""

    def plan(self, inputs: StepInputs, out: RowPlan | None = None) -> RowPlan:
        made = super().plan(inputs, out)
        made.max_keys = 4096
        return made


@needs_aiter
@pytest.mark.parametrize(
    "case", cases(InSegments, "padding", "window/padding", "sinks/window", "soft_cap")
)
def test_long_rows(case: Case) -> None:
    enter()
    case.run()


@needs_aiter
def test_plans_of_decode_buckets_alone_are_refilled() -> None:
    enter()
    attention = AiterAttention([KIND], 16, 16, TorchRuntime("cpu"))
    decoding, mixed = step([1, 1], Bucket(4, 4), 16), step([1, 2], Bucket(4, 4), 16)
    decoding.seq_lens[2:] = 0
    plan = attention.plan(decoding)
    assert attention.plan(decoding, plan) is plan
    assert attention.plan(mixed, plan) is not plan
    assert attention.plan(step([1, 1], Bucket(), 16), plan) is not plan
    assert plan.lens.tolist() == [300, 300, 1, 1], "padding rows see one token"


@needs_aiter
def test_warming_up_touches_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    enter()
    monkeypatch.setattr("tupelo_rocm.aiter_attention.WARM_ROWS", (1, 2))
    runtime = TorchRuntime("cpu")
    stored = KVSpec(group=0, layers=(0,), num_kv_heads=2, head_dim=16, dtype="float32")
    pool = TorchKVPool([stored], [3], 16, runtime)
    AiterAttention([KIND], 16, 64, runtime).warmup(0, 0, pool, torch.float32)
    assert not any(buffer.any() for buffer in pool.buffers(0))


def test_refusals_say_why() -> None:
    half, single = torch.float16, torch.float32
    assert why_not(KIND, 16, half, half) == ""
    assert "16 bits" in why_not(KIND, 16, single, single)
    assert "16 bits" in why_not(KIND, 16, half, torch.float8_e4m3fn)
    assert "pages of 8" in why_not(KIND, 8, half, half)
    assert "pages of 48" in why_not(KIND, 48, half, half)
