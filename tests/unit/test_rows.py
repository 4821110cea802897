"""Plans of rows, which libraries' attention reads: what they say, and when they are refilled."""

import torch
from tests.unit.step_inputs import step
from torch import Tensor

from tupelo.backend import TorchRuntime
from tupelo.backend.rows import RowAttention, RowPlan
from tupelo.batch import Bucket
from tupelo.specs import AttentionSpec

KIND = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)


class Planning(RowAttention):
    """Plans alone."""

    def store(self, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], places: Tensor) -> None:
        raise AssertionError("nothing is stored")

    def launch(
        self,
        q: Tensor,
        out: Tensor,
        kind: AttentionSpec,
        cache: tuple[Tensor, Tensor],
        plan: RowPlan,
        sinks: Tensor | None,
    ) -> None:
        raise AssertionError("nothing is attended")


def test_plans_of_decode_buckets_alone_are_refilled() -> None:
    attention = Planning([KIND], 16, 64, TorchRuntime("cpu"))
    decoding, mixed = step([1, 1], Bucket(4, 4)), step([1, 2], Bucket(4, 4))
    decoding.seq_lens[2:] = 0
    plan = attention.plan(decoding)
    assert attention.plan(decoding, plan) is plan
    assert attention.plan(mixed, plan) is not plan
    assert attention.plan(step([1, 1], Bucket()), plan) is not plan
    assert plan.lens.tolist() == [300, 300, 1, 1], "padding rows see one token"
    assert plan.cu_keys.tolist() == [0, 300, 600, 601, 602]
    assert plan.cu_seqlens.tolist() == [0, 1, 2, 3, 4]


def test_a_plan_of_shorter_rows_is_no_plan_of_a_bucket() -> None:
    """A bucket's plan is refilled with longer rows than those that it was made for."""
    attention = Planning([KIND], 16, 64, TorchRuntime("cpu"))
    eager = attention.plan(step([1, 1, 1, 1], Bucket()))
    assert eager.max_keys == 300
    made = attention.plan(step([1, 1], Bucket(4, 4)), eager)
    assert made is not eager
    assert made.max_keys == 64 * 16


def test_mixed_rows() -> None:
    attention = Planning([KIND], 16, 64, TorchRuntime("cpu"))
    plan = attention.plan(step([1, 5, 3], Bucket()))
    assert (plan.decodes, plan.mixed, plan.num_tokens) == (False, True, 9)
    assert (plan.max_queries, plan.max_keys) == (5, 300)
    assert plan.cu_seqlens.tolist() == [0, 1, 6, 9]
    assert plan.tables[0].dtype == torch.int32
