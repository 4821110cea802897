"""Norms, activations and rope against the references of their ops, interpreted."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

from collections.abc import Callable
from typing import Any

from tests.unit.triton.world import check_op, op_cases

from tupelo.ops import OpSpec, Sample
from tupelo.triton import activation, norm, rope

KERNELS: dict[str, Callable[..., Any]] = {
    "rms_norm": norm.rms_norm,
    "add_rms_norm": norm.add_rms_norm,
    "layer_norm": norm.layer_norm,
    "add_layer_norm": norm.add_layer_norm,
    "silu_mul": activation.silu_mul,
    "gelu_mul": activation.gelu_mul,
    "rope": rope.rope,
    "norm_rope_qkv": rope.norm_rope_qkv,
}


@pytest.mark.parametrize(("spec", "sample", "dtype"), op_cases(*KERNELS))
def test_op(spec: OpSpec, sample: Sample, dtype: str) -> None:
    check_op(spec, sample, dtype, KERNELS[spec.name])
