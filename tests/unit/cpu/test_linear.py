"""Packed linear layers and their fused forms against float64, and their bit-exact invariances."""

import pytest
import torch
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo_cpu.linear import LinearOps, PackedLinear
from tupelo_cpu.native.bindings import NativeLibrary

EPS = 1e-6
SIZES = [(1, 1), (7, 5), (32, 64), (33, 100), (96, 576), (300, 17), (576, 1536), (64, 2000)]
ROWS = [0, 1, 2, 3, 5, 12, 13, 31, 100, 257]


@pytest.fixture(scope="module")
def ops(library: NativeLibrary) -> LinearOps:
    return LinearOps(library)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_weight(rows: int, width: int, *, bias: bool = False, seed: int = 0) -> LinearWeight:
    weight = draw(rows, width, seed=seed) / width**0.5
    extra = draw(rows, seed=seed + 100) if bias else None
    return LinearWeight(rows, width, {"weight": weight}, extra)


def product(x: Tensor, weight: LinearWeight) -> Tensor:
    y = x.double() @ weight.weight.double().T
    return y if weight.bias is None else y + weight.bias.double()


def close(got: Tensor, want: Tensor) -> None:
    """Sums of up to 2,000 products of size 1 / sqrt(width) in float32: a few 1e-6 in all."""
    assert got.dtype is torch.float32
    assert got.shape == want.shape
    scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
    torch.testing.assert_close(got.double(), want, rtol=0, atol=4e-6 * scale)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_linear(ops: LinearOps, size: tuple[int, int], bias: bool) -> None:
    weight = make_weight(*size, bias=bias)
    packed = ops.pack(weight)
    for rows in ROWS:
        x = draw(rows, size[1], seed=rows)
        close(ops.linear(x, packed), product(x, weight))


def test_linear_of_large_values(ops: LinearOps) -> None:
    weight = make_weight(64, 128)
    x = draw(9, 128) * 1e18
    close(ops.linear(x, ops.pack(weight)), product(x, weight))


def test_linear_of_strided_input(ops: LinearOps) -> None:
    packed = ops.pack(make_weight(40, 50))
    wide = draw(50, 6).T
    assert torch.equal(ops.linear(wide, packed), ops.linear(wide.contiguous(), packed))


def mlp(x: Tensor, activation: str, gate_up: LinearWeight, down: LinearWeight) -> Tensor:
    gate, up = product(x, gate_up).chunk(2, dim=1)
    if activation == "silu":
        hidden = gate * torch.sigmoid(gate) * up
    else:
        inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
        hidden = 0.5 * gate * (1 + torch.tanh(inner)) * up
    y = hidden @ down.weight.double().T
    return y if down.bias is None else y + down.bias.double()


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize(
    ("hidden", "inner", "bias"),
    [(64, 128, False), (576, 1536, False), (40, 50, True), (33, 7, False), (96, 160, True)],
)
def test_gated_mlp(ops: LinearOps, activation: str, hidden: int, inner: int, bias: bool) -> None:
    gate_up = make_weight(2 * inner, hidden, bias=bias)
    down = make_weight(hidden, inner, bias=bias, seed=1)
    packed = ops.pack(gate_up), ops.pack(down)
    for rows in (0, 1, 3, 13, 120):
        x = draw(rows, hidden, seed=rows)
        got = ops.gated_mlp(x, activation, *packed)
        close(got, mlp(x, activation, gate_up, down))


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("size", [(96, 576), (33, 100), (7, 5)], ids=str)
def test_add_norm_linear(ops: LinearOps, size: tuple[int, int], with_residual: bool) -> None:
    weight, norm = make_weight(*size), draw(size[1], seed=9)
    packed = ops.pack(weight)
    for rows in (0, 1, 4, 50):
        x = draw(rows, size[1], seed=rows)
        residual = draw(rows, size[1], seed=rows + 50) if with_residual else None
        before = x.clone()
        got, total = ops.add_norm_linear(x, residual, norm, EPS, packed)
        want = x if residual is None else x + residual
        assert torch.equal(total, want)
        assert torch.equal(x, before)
        wide = want.double()
        normed = wide / ((wide * wide).mean(-1, keepdim=True) + EPS).sqrt() * norm.double()
        close(got, product(normed, weight))


def rows_of(
    ops: LinearOps, x: Tensor, packed: dict[str, PackedLinear], norm: Tensor
) -> list[Tensor]:
    return [
        ops.linear(x, packed["gate_up"]),
        ops.gated_mlp(x, "silu", packed["gate_up"], packed["down"]),
        ops.add_norm_linear(x, x * 0.5, norm, EPS, packed["gate_up"])[0],
    ]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("hidden", "inner"), [(576, 1536), (900, 50)])
def test_batch_and_threads_do_not_change_a_bit(
    ops: LinearOps, threads: int, hidden: int, inner: int
) -> None:
    """Rows alone and in batches of 2 to 300: every micro-kernel height, one tile and several."""
    packed = {
        "gate_up": ops.pack(make_weight(2 * inner, hidden)),
        "down": ops.pack(make_weight(hidden, inner, seed=1)),
    }
    x, norm = draw(300, hidden), draw(hidden, seed=2)
    alone = [rows_of(ops, x[i : i + 1], packed, norm) for i in range(64)]
    torch.set_num_threads(threads)
    for rows in (*range(2, 26), 64, 150, 300):
        together = rows_of(ops, x[:rows], packed, norm)
        for i in range(min(rows, 64)):
            for got, want in zip(together, alone[i], strict=True):
                assert torch.equal(got[i : i + 1], want), (rows, i)


def test_fused_equals_composed_to_the_bit(ops: LinearOps, library: NativeLibrary) -> None:
    """So a model may be served by either form without a change of its output."""
    from tupelo_cpu.elementwise import ElementwiseOps

    gate_up, down = ops.pack(make_weight(256, 64)), ops.pack(make_weight(64, 128, seed=1))
    x, norm = draw(20, 64), draw(64, seed=2)
    single = ElementwiseOps(library)
    composed = ops.linear(single.silu_mul(ops.linear(x, gate_up)), down)
    assert torch.equal(ops.gated_mlp(x, "silu", gate_up, down), composed)
    normed, total = single.add_rms_norm(x, x, norm, EPS)
    got = ops.add_norm_linear(x, x, norm, EPS, gate_up)
    assert torch.equal(got[0], ops.linear(normed, gate_up))
    assert torch.equal(got[1], total)


@pytest.mark.parametrize("activation", ["gelu_erf", "gelu_tanh", "relu", "gelu_erf_mul"])
@pytest.mark.parametrize(("hidden", "inner"), [(64, 128), (33, 7), (96, 161)])
def test_mlp_without_norm(ops: LinearOps, activation: str, hidden: int, inner: int) -> None:
    """Values from -8 to 8 before the activation: both of its tails, and what lies between."""
    gated = activation.endswith("_mul")
    up = make_weight((2 if gated else 1) * inner, hidden, bias=True)
    down = make_weight(hidden, inner, bias=True, seed=1)
    plain = {
        "gelu_erf": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "relu": torch.relu,
        "gelu_erf_mul": lambda x: torch.nn.functional.gelu(x[:, :inner]) * x[:, inner:],
    }[activation]
    for rows in (0, 1, 3, 17):
        x = 3 * draw(rows, hidden, seed=rows)
        want = product(plain(product(x, up)), down)
        close(ops.mlp(x, activation, ops.pack(up), ops.pack(down)), want)
    x = 3 * draw(17, hidden)
    whole = ops.mlp(x, activation, ops.pack(up), ops.pack(down))
    assert torch.equal(whole[5:6], ops.mlp(x[5:6], activation, ops.pack(up), ops.pack(down)))
