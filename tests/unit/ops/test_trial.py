"""A kernel's first run: one that gives something else than the op is disabled by name."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tupelo.ops import OPS, Kernel, LinearWeight, OpCall, OpTable, Tier
from tupelo.ops.trial import Trials

CALL = OpCall(op="rms_norm", dtype="float16", shape=(64,))


def right(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The op, by other means."""
    wide = x.float()
    return (wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight).to(x.dtype)


def forgets_the_weight(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Right for weights of 1 alone."""
    return right(x, torch.ones_like(weight), eps)


def gives_nothing(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As a kernel whose launch failed without a word."""
    return torch.full_like(x, float("nan"))


def raises(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As a library that is built for another device."""
    raise OSError("no kernel image is available\nand more")


def table(fn: Callable[..., Any], op: str = "rms_norm", **more: Any) -> OpTable:
    """A table of one tried kernel of the vendor's."""
    return OpTable(OPS, Trials("cpu").tried([Kernel(op=op, name="fast", fn=fn, **more)]))


def test_a_right_kernel_serves(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert table(right).choose(CALL).name == "fast"
    assert not caplog.records


@pytest.mark.parametrize("wrong", [forgets_the_weight, gives_nothing, raises])
def test_a_wrong_kernel_is_disabled_by_name_and_the_next_one_serves(
    wrong: Callable[..., Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    made = table(wrong)
    with caplog.at_level(logging.WARNING):
        assert made.choose(CALL).tier is Tier.REFERENCE
        assert made.choose(CALL).tier is Tier.REFERENCE
    (record,) = caplog.records
    assert "fast is disabled in float16" in record.getMessage()
    assert "it is disabled" in made.choices[0].refused[0]


def test_each_type_is_tried_by_itself() -> None:
    def only_float32(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return right(x, weight, eps) * (1.0 if x.dtype is torch.float32 else 1.1)

    trials = Trials("cpu")
    made = OpTable(OPS, trials.tried([Kernel(op="rms_norm", name="fast", fn=only_float32)]))
    wide = OpCall(op="rms_norm", dtype="float32", shape=(64,))
    assert made.choose(wide).name == "fast"
    assert made.choose(CALL).tier is Tier.REFERENCE
    assert list(trials.disabled) == [("fast", "float16")]


def test_a_question_about_shapes_alone_runs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The kit asks such for the samples of an op, which are of every type."""
    trials = Trials("cpu")
    (kernel,) = trials.tried([Kernel(op="rms_norm", name="fast", fn=raises)])
    with caplog.at_level(logging.WARNING):
        assert kernel.supports(OpCall(op="rms_norm", dtype="", shape=(64,))) is None
    assert not caplog.records
    assert trials.disabled == {}


def test_what_a_kernel_refuses_is_not_tried_with_it() -> None:
    calls = []

    def linear(x: Tensor, weight: Tensor) -> Tensor:
        calls.append(x.shape)
        return x @ weight.T

    def pack(weight: LinearWeight) -> Tensor:
        return weight.weight.clone()

    def multiples_of_16(call: OpCall) -> str | None:
        return "odd sizes" if any(n % 16 for n in call.shape) else None

    made = table(linear, "linear", pack=pack, supports=multiples_of_16)
    wanted = OpCall(op="linear", dtype="float32", shape=(48, 64))
    assert made.choose(wanted).name == "fast"
    assert len(calls) == 1, "the sample of odd sizes is none of its"
    assert made.choose(OpCall(op="linear", dtype="float32", shape=(7, 9))).tier is Tier.REFERENCE


def test_a_kernel_that_no_sample_suits_is_not_trusted() -> None:
    def nothing_small(call: OpCall) -> str | None:
        return None if call.shape[0] > 1000 else "too small"

    made = table(right, supports=nothing_small)
    large = OpCall(op="rms_norm", dtype="float32", shape=(4096,))
    assert made.choose(large).tier is Tier.REFERENCE
    assert "no sample" in made.choices[0].refused[0]
