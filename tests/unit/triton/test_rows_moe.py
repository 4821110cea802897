"""Embedding, merge, quantize and experts against the references of their ops, interpreted."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

from collections.abc import Callable
from typing import Any

import torch
from tests.unit.triton.world import check_op, op_cases

from tupelo.ops import OPS, OpSpec, Sample
from tupelo.triton import moe, rows
from tupelo.triton.moe import MoEConfig

KERNELS: dict[str, Callable[..., Any]] = {
    "embedding": rows.embedding,
    "merge_attention": rows.merge_attention,
    "quantize": rows.quantize,
    "moe_experts": moe.moe_experts,
}


@pytest.mark.parametrize(("spec", "sample", "dtype"), op_cases(*KERNELS))
def test_op(spec: OpSpec, sample: Sample, dtype: str) -> None:
    check_op(spec, sample, dtype, KERNELS[spec.name])


@pytest.mark.parametrize("top_k", [1, 3])
def test_experts_with_several_tiles_each(top_k: int) -> None:
    torch.manual_seed(top_k)
    count, hidden, inner, experts = 70, 24, 20, 5
    chosen = torch.stack([torch.randperm(experts - 1)[:top_k] for _ in range(count)])
    args: dict[str, Any] = {
        "x": torch.randn(count, hidden),
        "weights": torch.rand(count, top_k),
        "experts": chosen,
        "activation": "silu",
        "gate_up": torch.randn(experts, 2 * inner, hidden) / 5,
        "down": torch.randn(experts, hidden, inner) / 5,
    }
    got = moe.run_experts(**args, config=MoEConfig(16, 16, 16, 1, 1))
    torch.testing.assert_close(got, OPS["moe_experts"].reference(**args), atol=1e-5, rtol=1e-5)
