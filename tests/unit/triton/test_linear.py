"""Products of few rows against the references of their ops, interpreted, launched in all ways."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

from collections.abc import Callable
from typing import Any

import torch
from tests.unit.triton.world import check_op, op_cases

from tupelo.ops import LinearWeight, OpSpec, Sample
from tupelo.triton import linear
from tupelo.triton.gemv import add_norm_gemv
from tupelo.triton.linear_config import MAX_ROWS, LinearConfig, configs

KERNELS: dict[str, Callable[..., Any]] = {
    "add_norm_linear": linear.add_norm_linear,
    "gated_mlp": linear.gated_mlp,
    "mlp": linear.mlp,
}


@pytest.mark.parametrize(("spec", "sample", "dtype"), op_cases(*KERNELS))
def test_op(spec: OpSpec, sample: Sample, dtype: str) -> None:
    check_op(spec, sample, dtype, KERNELS[spec.name])


@pytest.mark.parametrize(("spec", "sample", "dtype"), op_cases("linear"))
def test_linear(spec: OpSpec, sample: Sample, dtype: str) -> None:
    if sample.args["x"].shape[0] > MAX_ROWS:
        pytest.skip(f"the kernel is for up to {MAX_ROWS} rows")
    check_op(spec, sample, dtype, linear.linear)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("activation", ["", "silu", "gelu"])
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_every_config(rows: int, activation: str, bias: bool) -> None:
    x, weight = made(rows, 2 * 37, 130, bias)
    want = gated(reference(x, weight), activation)
    for config in configs((2 * 37, 130), rows, itemsize=4, gated=bool(activation)):
        got = linear.run_linear(x, weight, config, activation)
        worst = float((got - want).abs().max())
        assert worst < 2e-5, f"{config}: off by {worst}"


@pytest.mark.parametrize("residual", [False, True], ids=["first", "residual"])
@pytest.mark.parametrize("activation", ["", "silu"])
def test_norm_inside_the_product(residual: bool, activation: str) -> None:
    x, weight = made(1, 2 * 37, 300, True)
    norm, more = 1 + 0.1 * torch.randn(300), torch.randn(1, 300)
    total = x + more if residual else x
    normed = total * torch.rsqrt(total.pow(2).mean() + 0.1) * norm
    config = LinearConfig(block_n=2, block_k=128, num_warps=4, num_stages=1)
    got, kept = add_norm_gemv(x, more if residual else None, norm, 0.1, weight, config, activation)
    want = gated(reference(normed, weight), activation)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)
    assert torch.equal(kept, total)


def test_candidates_fit_the_shared_memory_that_they_are_told_of() -> None:
    small = configs((4096, 4096), 64)
    large = configs((4096, 4096), 64, shared_bytes=232448)
    assert set(small) < set(large)
    assert any(c.splits > 1 for c in large)
    assert all(c.splits == 1 for c in configs((4096, 4096), 64, gated=True))


def made(rows: int, out: int, features: int, bias: bool) -> tuple[torch.Tensor, LinearWeight]:
    torch.manual_seed(rows)
    matrix = torch.randn(out, features) / features**0.5
    weight = LinearWeight(out, features, {"weight": matrix}, torch.randn(out) if bias else None)
    return torch.randn(rows, features), weight


def reference(x: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
    bias = 0.0 if weight.bias is None else weight.bias.double()
    return (x.double() @ weight.weight.double().T + bias).float()


def gated(x: torch.Tensor, activation: str) -> torch.Tensor:
    if not activation:
        return x
    gate, up = x.double().chunk(2, dim=-1)
    if activation == "silu":
        return (gate * torch.sigmoid(gate) * up).float()
    inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    return (0.5 * gate * (1 + torch.tanh(inner)) * up).float()
