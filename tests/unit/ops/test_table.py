"""Choosing kernels: tiers, refusals, row buckets, packing, and fallback that is never silent."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tupelo.errors import CapabilityError, ContractError
from tupelo.ops import OPS, Kernel, LinearWeight, OpCall, OpTable, Tier, check_kernel
from tupelo.ops.linear import linear as reference_linear

CALL = OpCall(op="linear", dtype="float32", shape=(3, 2))


def tagged(value: float) -> Callable[[torch.Tensor, Any], torch.Tensor]:
    """A ``linear`` that can be told by what it returns."""

    def linear(x: torch.Tensor, weight: Any) -> torch.Tensor:
        return torch.full((x.shape[0], 3), value)

    return linear


def kernel(name: str, value: float, **more: Any) -> Kernel:
    return Kernel(op="linear", name=name, fn=tagged(value), **more)


def weight() -> LinearWeight:
    return LinearWeight(3, 2, {"weight": torch.arange(6.0).view(3, 2)}, torch.ones(3))


def test_without_kernels_the_reference_serves_and_is_on_record() -> None:
    table = OpTable(OPS)
    bound = table.bind(CALL, weights={"weight": weight()})
    x = torch.tensor([[1.0, 2.0]])
    assert torch.equal(bound(x), reference_linear(x, weight()))
    (choice,) = table.choices
    assert (choice.kernel, choice.tier, choice.refused) == ("torch", Tier.REFERENCE, ())


def test_better_tiers_win_and_earlier_wins_within_one() -> None:
    table = OpTable(
        OPS,
        [
            kernel("portable", 1, tier=Tier.PORTABLE),
            kernel("first", 2),
            kernel("second", 3),
        ],
    )
    assert table.choose(CALL).name == "first"


def test_refusals_are_on_record() -> None:
    never = kernel("picky", 1, supports=lambda call: "only on Tuesdays")
    table = OpTable(OPS, [never, kernel("portable", 2, tier=Tier.PORTABLE)])
    assert table.choose(CALL).name == "portable"
    assert table.choices[0].refused == ("picky: only on Tuesdays",)


def test_a_forbidden_fallback_is_an_error_with_every_refusal() -> None:
    never = kernel("picky", 1, supports=lambda call: "only on Tuesdays")
    table = OpTable(OPS, [never], fallback="forbid")
    with pytest.raises(CapabilityError, match=r"linear \(3, 2\) in float32.*picky: only on Tue"):
        table.choose(CALL)


def test_row_buckets_pick_by_rows() -> None:
    table = OpTable(OPS, [kernel("small", 1, max_rows=2), kernel("any", 9)])
    bound = table.bind(CALL, weights={"weight": weight()})
    assert bound(torch.ones(2, 2))[0, 0] == 1
    assert bound(torch.ones(3, 2))[0, 0] == 9
    limits = {c.kernel: c.call.max_rows for c in table.choices}
    assert limits == {"small": 2, "any": None}


def test_a_weight_is_packed_once_for_kernels_that_share_a_layout() -> None:
    packs = []

    def pack(plain: LinearWeight) -> str:
        packs.append(plain)
        return "packed"

    def linear(x: torch.Tensor, weight: Any) -> torch.Tensor:
        assert weight == "packed"
        return x

    made = Kernel(op="linear", name="packer", fn=linear, pack=pack)
    one = weight()
    table = OpTable(OPS, [made, replace(made, name="small", max_rows=4)])
    table.bind(CALL, weights={"weight": one})(torch.ones(1, 2))
    table.bind(replace(CALL, shape=(3, 2)), weights={"weight": one})(torch.ones(9, 2))
    assert packs == [one]
    one.release()
    with pytest.raises(ContractError, match="released"):
        _ = one.weight


def test_a_plain_weight_in_use_is_not_released() -> None:
    one = weight()
    OpTable(OPS).bind(CALL, weights={"weight": one})
    one.release()
    assert one.weight.shape == (3, 2)


def test_weights_in_the_middle_of_the_parameters_are_bound_by_name() -> None:
    table = OpTable(OPS)
    call = OpCall(op="gated_mlp", dtype="float32", shape=(2, 1), statics=(("activation", "silu"),))
    up, down = (LinearWeight(2, 2, {"weight": torch.eye(2)}) for _ in range(2))
    down = LinearWeight(2, 1, {"weight": torch.ones(2, 1)})
    bound = table.bind(call, weights={"gate_up": up, "down": down})
    x = torch.tensor([[1.0, 3.0]])
    want = OPS["gated_mlp"].reference(x, "silu", up, down)
    assert torch.equal(bound(x, "silu"), want)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Kernel(op="no_such_op", name="k", fn=lambda x: x), "no op of core"),
        (Kernel(op="silu_mul", name="k", fn=lambda y: y), r"parameters \(y\); the op has \(x\)"),
        (Kernel(op="silu_mul", name="k", fn=lambda x, y=1: x), r"\(x, y=1\)"),
    ],
)
def test_a_kernel_of_another_signature_is_refused(bad: Kernel, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_kernel(bad, OPS)
    with pytest.raises(ContractError):
        OpTable(OPS, [bad])
