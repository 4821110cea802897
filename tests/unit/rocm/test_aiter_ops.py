"""Ops by AITER's own Triton kernels, interpreted, against the references on their samples."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

import torch
from tests.unit.rocm.aiter_here import enter, needs_aiter
from tests.unit.triton.world import check_op, op_cases
from triton.runtime.interpreter import InterpreterBuilder
from tupelo_rocm.aiter_ops import aiter_kernels, aiter_product, align, supports

from tupelo.ops import OPS, LinearWeight, OpCall, OpSpec, Sample, Tier, check_kernel

OPS_OF_AITER = ("rms_norm", "add_rms_norm", "moe_experts")
SAMPLES = [
    case
    for case in op_cases(*OPS_OF_AITER)
    if dict(case.values[1].call.statics).get("activation") != "swiglu_clamped"  # refused: see below
]


@needs_aiter
def test_the_records_keep_the_contract() -> None:
    enter()
    kernels, refused = aiter_kernels("gfx942")
    assert not refused
    assert [kernel.op for kernel in kernels] == list(OPS_OF_AITER)
    for kernel in kernels:
        check_kernel(kernel, OPS)
        assert kernel.tier is Tier.VENDOR


@needs_aiter
@pytest.mark.filterwarnings("ignore:No MoE configuration found")
@pytest.mark.parametrize(("spec", "sample", "dtype"), SAMPLES)
def test_op(spec: OpSpec, sample: Sample, dtype: str) -> None:
    enter()
    kernel = next(k for k in aiter_kernels("gfx942")[0] if k.op == spec.name)
    check_op(spec, sample, dtype, kernel.fn)


@needs_aiter
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [1, 7, 65])
def test_product(rows: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    enter()
    # It tells the compiler that strides are positive, where one is 0 and never used.
    monkeypatch.setattr(InterpreterBuilder, "create_assume", lambda self, condition: None)
    product = aiter_product("gfx942")
    assert product is not None
    draw = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 96, generator=draw).half()
    matrix = (torch.randn(80, 96, generator=draw) / 10).half()
    extra = torch.randn(80, generator=draw).half() if bias else None
    weight = LinearWeight(80, 96, {"weight": matrix}, extra)
    want = torch.nn.functional.linear(x, matrix, extra)
    torch.testing.assert_close(product(x, weight), want, atol=5e-3, rtol=5e-3)


def test_architectures_without_sizes_are_refused_by_name() -> None:
    kernels, refused = aiter_kernels("gfx1100")
    assert kernels == ()
    assert "gfx1100" in refused[0]
    assert aiter_product("gfx90a") is None


def test_refusals_say_why() -> None:
    call = OpCall(op="moe_experts", dtype="bfloat16", shape=(8, 2, 64, 64))
    assert supports(call) is None
    assert "float32" in str(supports(OpCall(op="rms_norm", dtype="float32", shape=(64,))))
    clamped = OpCall(
        op="moe_experts",
        dtype="bfloat16",
        shape=(8, 2, 64, 64),
        statics=(("activation", "swiglu_clamped"),),
    )
    assert "activations" in str(supports(clamped))


@pytest.mark.parametrize("tile", [1, 4, 16])
def test_pairs_are_padded_to_tiles_of_one_expert(tile: int) -> None:
    experts = torch.tensor([[3, 0], [3, 1], [0, 3], [3, 5]])
    pairs, owners, used = align(experts, 6, tile)
    assert len(pairs) % tile == 0
    assert len(owners) == len(pairs) // tile
    assert int(used) % tile == 0
    assert sorted(pairs[pairs < 8].tolist()) == list(range(8))
    assert (pairs[int(used) :] == 8).all()
    flat = experts.flatten()
    for place, pair in enumerate(pairs.tolist()):
        if pair < 8:
            assert owners[place // tile] == flat[pair]
            assert place < int(used)
