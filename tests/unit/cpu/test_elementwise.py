"""Norms, activations and the split of qkv against float64."""

import pytest
import torch
from torch import Tensor

from tupelo.ops import OpCall
from tupelo.specs import QuantScheme
from tupelo_cpu.elementwise import ElementwiseOps, supports
from tupelo_cpu.native.bindings import NativeLibrary

EPS = 1e-5
SHAPES = [(0, 64), (1, 1), (1, 576), (3, 17), (5, 100), (64, 576), (33, 4096)]


@pytest.fixture(scope="module")
def ops(library: NativeLibrary) -> ElementwiseOps:
    return ElementwiseOps(library)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, want: Tensor, relative: float = 1e-6) -> None:
    assert got.dtype is torch.float32
    assert got.shape == want.shape
    torch.testing.assert_close(got.double(), want, rtol=relative, atol=relative)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    x = x.double()
    return x / ((x * x).mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_rms_norm(ops: ElementwiseOps, shape: tuple[int, int], size: float) -> None:
    x, weight = draw(*shape) * size, draw(shape[1], seed=1)
    close(ops.rms_norm(x, weight, EPS), norm(x, weight), 2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_rms_norm(ops: ElementwiseOps, shape: tuple[int, int]) -> None:
    x, residual, weight = draw(*shape), draw(*shape, seed=2), draw(shape[1], seed=1)
    before = x.clone(), residual.clone()
    normed, total = ops.add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    close(normed, norm(total, weight), 2e-6)
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])


def test_rms_norm_over_heads(ops: ElementwiseOps) -> None:
    x, weight = draw(5, 3, 64), draw(64, seed=1)
    close(ops.rms_norm(x, weight, EPS), norm(x, weight), 2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1e-4, 1.0, 30.0])
def test_gated_activations(ops: ElementwiseOps, shape: tuple[int, int], size: float) -> None:
    x = draw(shape[0], 2 * shape[1]) * size
    gate, up = torch.split(x.double(), shape[1], dim=1)
    close(ops.silu_mul(x), gate / (1 + torch.exp(-gate)) * up)
    inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    close(ops.gelu_mul(x), 0.5 * gate * (1 + torch.tanh(inner)) * up)


def test_activations_at_the_ends_of_the_range(ops: ElementwiseOps) -> None:
    gate = torch.tensor([[-1e30, -200.0, -90.0, -0.0, 0.0, 90.0, 200.0, 1e30, float("nan")]])
    x = torch.cat([gate, torch.ones_like(gate)], dim=1)
    want = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 90.0, 200.0, 1e30]])
    for got in (ops.silu_mul(x), ops.gelu_mul(x)):
        torch.testing.assert_close(got[:, :-1], want, rtol=1e-6, atol=1e-30)
        assert got[0, -1].isnan()


def split_and_rotate(
    qkv: Tensor, positions: Tensor, cos_sin: Tensor, norms: list[Tensor | None], heads: list[int]
) -> list[Tensor]:
    """As complex numbers: element i of the first half with element i of the second."""
    dim = qkv.shape[1] // sum(heads)
    out = []
    for x, weight in zip(
        torch.split(qkv, [h * dim for h in heads], dim=1), [*norms, None], strict=True
    ):
        x = x.reshape(-1, x.shape[1] // dim, dim).double()
        out.append(norm(x, weight) if weight is not None else x)
    half = cos_sin.shape[1] // 2
    table = cos_sin.double()[positions]
    turn = torch.complex(table[:, :half], table[:, half:])[:, None, :]
    for i in (0, 1):
        x = out[i].clone()
        turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn
        x[..., :half], x[..., half : 2 * half] = turned.real, turned.imag
        out[i] = x
    return out


@pytest.mark.parametrize("rows", [0, 1, 5, 130])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "rotary"),
    [(9, 3, 64, 64), (4, 4, 32, 32), (8, 1, 20, 20), (2, 1, 96, 24), (4, 1, 256, 256)],
)
@pytest.mark.parametrize("normed", [False, True])
def test_norm_rope_qkv(
    ops: ElementwiseOps, rows: int, heads: int, kv_heads: int, dim: int, rotary: int, normed: bool
) -> None:
    qkv, angles = draw(rows, (heads + 2 * kv_heads) * dim), draw(200, rotary // 2, seed=1)
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)
    positions = torch.randint(0, 200, (rows,), generator=torch.Generator().manual_seed(3))
    q_norm, k_norm = (draw(dim, seed=4), draw(dim, seed=5)) if normed else (None, None)
    want = split_and_rotate(qkv, positions, cos_sin, [q_norm, k_norm], [heads, kv_heads, kv_heads])
    for index in (positions, positions.to(torch.int32)):
        got = ops.norm_rope_qkv(qkv, index, cos_sin, q_norm, k_norm, EPS, heads, kv_heads, dim)
        for g, w in zip(got, want, strict=True):
            close(g, w, 4e-6)


def test_strided_inputs(ops: ElementwiseOps) -> None:
    wide, weight = draw(6, 200), draw(200, seed=1)[::2]
    x = wide[:, ::2]
    assert not x.is_contiguous()
    assert torch.equal(ops.rms_norm(x, weight, EPS), ops.rms_norm(x.clone(), weight.clone(), EPS))
    assert torch.equal(ops.silu_mul(x), ops.silu_mul(x.contiguous()))
    got = ops.add_rms_norm(x, wide[:, 1::2], weight, EPS)
    want = ops.add_rms_norm(x.contiguous(), wide[:, 1::2].contiguous(), weight, EPS)
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("rows", [2, 7, 64, 300])
def test_rows_do_not_change_a_bit(ops: ElementwiseOps, rows: int) -> None:
    x, weight = draw(rows, 600), draw(600, seed=1)
    together = (ops.rms_norm(x, weight, EPS), ops.silu_mul(x), ops.gelu_mul(x))
    for i in range(0, rows, 5):
        row = x[i : i + 1]
        alone = (ops.rms_norm(row, weight, EPS), ops.silu_mul(row), ops.gelu_mul(row))
        assert all(torch.equal(t[i : i + 1], a) for t, a in zip(together, alone, strict=True))


def test_predicate() -> None:
    plain = OpCall(op="linear", dtype="float32", shape=(8, 8))
    assert supports(plain) is None
    assert "bfloat16" in (supports(OpCall(op="linear", dtype="bfloat16", shape=(8, 8))) or "")
    scheme = QuantScheme(name="int4", bits=4, group_size=32)
    quantised = OpCall(op="linear", dtype="float32", shape=(8, 8), scheme=scheme)
    assert "int4" in (supports(quantised) or "")
