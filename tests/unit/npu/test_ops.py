"""The ops made of torch-npu's operators, which stand-ins compute by their documentation, against
the references on all samples."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.unit.npu import stand_ins
from tests.unit.triton.world import check_op
from tupelo_npu import calls, npu_ops
from tupelo_npu.kernels import OPS, npu_kernels, supports
from tupelo_npu.options import Options

from tupelo.ops import OPS as SPECS
from tupelo.ops import Kernel, LinearWeight, OpCall, OpTable, Sample, Tier
from tupelo.ops.trial import Trials
from tupelo.specs import QuantScheme

stand_ins.install()

PLAIN = Options(triton=False)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    stand_ins.CALLS.clear()
    yield
    stand_ins.WRONG.clear()


def _in(call: OpCall, dtype: str) -> OpCall:
    return OpCall(
        op=call.op, dtype=dtype, shape=call.shape, scheme=call.scheme, statics=call.statics
    )


def _samples() -> Iterator[Any]:
    for op in OPS:
        for sample in SPECS[op].samples():
            if supports(_in(sample.call, "float32")) is None:
                for dtype in ("float32", "bfloat16", "float16"):
                    yield pytest.param(op, sample, dtype, id=f"{op}-{sample.id}-{dtype}")


@pytest.mark.parametrize(("op", "sample", "dtype"), [*_samples()])
def test_an_op_is_the_reference(op: str, sample: Sample, dtype: str) -> None:
    check_op(SPECS[op], sample, dtype, OPS[op][0])


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op][1]])
def test_an_op_calls_the_operators_that_it_names(op: str) -> None:
    for sample in SPECS[op].samples():
        if supports(_in(sample.call, "float32")) is None:
            check_op(SPECS[op], sample, "float32", OPS[op][0])
    assert set(stand_ins.CALLS) <= {*OPS[op][1], "npu_rms_norm"}
    assert set(stand_ins.CALLS) & set(OPS[op][1])
    assert set(OPS[op][1]) <= set(calls.NAMES)


def test_biases_of_experts_are_added() -> None:
    random = torch.Generator().manual_seed(0)
    x, gate_up, down = (
        torch.randn(*shape, generator=random) / 4 for shape in ((5, 16), (4, 24, 16), (4, 16, 12))
    )
    biases = (torch.randn(4, 24, generator=random), torch.randn(4, 16, generator=random))
    weights, experts = npu_ops.moe_route(torch.randn(5, 4, generator=random), 2, True)
    for activation in ("silu", "swiglu_clamped"):
        given = (x, weights, experts, activation, gate_up, down, *biases)
        want = SPECS["moe_experts"].reference(*given)
        torch.testing.assert_close(npu_ops.moe_experts(*given), want)
    assert "npu_moe_finalize_routing" in stand_ins.CALLS


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("group_top", [1, 2])
@pytest.mark.parametrize("corrected", [False, True])
def test_experts_are_chosen_within_groups(scoring: str, group_top: int, corrected: bool) -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(9, 32, generator=random)
    bias = torch.rand(32, generator=random) if corrected else None
    given = (logits, 3, True, scoring, bias, 4, 2, group_top, 2.5)
    got, want = npu_ops.moe_route(*given), SPECS["moe_route"].reference(*given)
    torch.testing.assert_close(got[0], want[0])
    assert torch.equal(got[1], want[1])
    assert "npu_moe_gating_top_k" in stand_ins.CALLS


def test_groups_that_cann_lacks_are_the_references() -> None:
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    given = (logits, 2, False, "sigmoid", None, 4, 2, 1, 1.0)
    got, want = npu_ops.moe_route(*given), SPECS["moe_route"].reference(*given)
    assert torch.equal(got[1], want[1])
    assert not stand_ins.CALLS


def test_every_op_is_served_by_cann() -> None:
    table = OpTable(SPECS, npu_kernels(PLAIN, Trials("cpu"))[0])
    for op in OPS:
        call = next(s.call for s in SPECS[op].samples() if s.id == "typical")
        assert table.choose(_in(call, "bfloat16")).name == f"npu_{op}"


def test_a_wrong_kernel_is_disabled_by_name_and_the_next_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def forgets_gamma(x: torch.Tensor, gamma: torch.Tensor, epsilon: float) -> Any:
        return stand_ins.rms_norm(x, torch.ones_like(gamma), epsilon)

    stand_ins.WRONG["npu_rms_norm"] = forgets_gamma
    kernels, _ = npu_kernels(PLAIN, Trials("cpu"))
    table = OpTable(SPECS, kernels)
    with caplog.at_level(logging.WARNING):
        call = OpCall(op="rms_norm", dtype="bfloat16", shape=(64,))
        assert table.choose(call).tier is Tier.REFERENCE
        swiglu = OpCall(op="silu_mul", dtype="bfloat16", shape=(64,))
        assert table.choose(swiglu).name == "npu_silu_mul"
    assert "npu_rms_norm is disabled in bfloat16" in caplog.text


def test_what_is_refused_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = QuantScheme(name="int8", bits=8)
    assert "int8" in str(supports(OpCall(op="linear", dtype="float16", shape=(8, 8), scheme=eight)))
    assert "float64" in str(supports(OpCall(op="rms_norm", dtype="float64", shape=(8,))))
    alone = OpCall(op="moe_experts", dtype="float16", shape=(1, 1, 64, 32))
    assert "2 to 1024 experts" in str(supports(alone))
    monkeypatch.setattr(calls, "_has", lambda name: name != "npu_geglu")
    kernels, refused = npu_kernels(PLAIN, Trials("cpu"))
    assert {"gelu_mul", "gated_mlp"}.isdisjoint(kernel.op for kernel in kernels)
    assert any("no npu_geglu" in reason for reason in refused)
    assert npu_kernels(Options(vendor=False, triton=False), Trials("cpu")) == ((), ())


def test_a_wrong_keyword_is_refused() -> None:
    x = torch.ones(2, 8)
    with pytest.raises(RuntimeError, match="Unknown keyword argument 'eps'"):
        torch.ops.npu.npu_rms_norm(x, torch.ones(8), eps=1e-6)


def test_kernels_have_the_references_signatures() -> None:
    for op, (fn, _) in OPS.items():
        OpTable(SPECS, [Kernel(op=op, name=op, fn=fn)])
    weight = LinearWeight(2, 2, {"weight": torch.eye(2)})
    assert torch.equal(npu_ops.linear(torch.ones(1, 2), weight), torch.ones(1, 2))
