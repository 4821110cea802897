"""A fast kernel's first run: one that differs from the reference is not used, and that is said."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.unit.tpu.stand_ins import torch_kernel
from torch import Tensor
from tupelo_tpu.attention import PallasAttention, make_attention
from tupelo_tpu.options import Options
from tupelo_tpu.pallas_shape import Shape

from tupelo.backend import ReferenceAttention, TorchRuntime
from tupelo.specs import AttentionSpec

FULL = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=128, scale=128**-0.5)
KINDS = (FULL, replace(FULL, group=1, window=7, soft_cap=3.0, sinks=True))


def _make(kernel: object, kinds: Sequence[AttentionSpec] = KINDS) -> ReferenceAttention:
    options, runtime = Options(attention="pallas"), TorchRuntime("cpu")
    return make_attention(options, "TPU", kinds, 16, 8, runtime, False, kernel)  # type: ignore[arg-type]


def test_a_right_kernel_is_used(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Shape] = []
    with caplog.at_level(logging.WARNING):
        assert isinstance(_make(partial(torch_kernel, calls)), PallasAttention)
    assert [shape.window for shape in calls] == [None, 7], "each kind of layer was tried"
    assert not caplog.records


def _no_window(shape: Shape, args: Sequence[Tensor]) -> Tensor:
    return torch_kernel([], replace(shape, window=None), args)


def _neighbours_page(shape: Shape, args: Sequence[Tensor]) -> Tensor:
    return torch_kernel([], shape, [*args[:4], args[4].roll(1), *args[5:]])


def _nothing(shape: Shape, args: Sequence[Tensor]) -> Tensor:
    return torch.full_like(args[5], float("nan"))


def _raises(shape: Shape, args: Sequence[Tensor]) -> Tensor:
    raise RuntimeError("the compiler refused it")


@pytest.mark.parametrize("kernel", [_no_window, _neighbours_page, _nothing, _raises])
def test_a_wrong_kernel_is_disabled_by_name(
    kernel: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = _make(kernel)
    assert type(made) is ReferenceAttention, "service goes on without it"
    (record,) = caplog.records
    assert "Pallas kernel of attention is disabled" in record.getMessage()


@pytest.mark.parametrize("other", [{"head_dim": 64}, {"window": 8, "chunked": True}])
def test_layers_that_the_kernel_does_not_serve_are_not_tried_with_it(other: dict[str, int]) -> None:
    calls: list[Shape] = []
    made = _make(partial(torch_kernel, calls), (replace(FULL, **other),))
    assert isinstance(made, PallasAttention)
    assert calls == []
