"""What the tests of the portable kernels share: ops run against their references and samples."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from tupelo.conformance.case import Case
from tupelo.ops import OPS, LinearWeight, OpSpec, Sample
from tupelo.ops.compare import EXACT, compare, outputs_of

DTYPES = ("float32", "float16")


def op_cases(*names: str) -> list[Any]:
    """Every sample of the ops in every dtype that the interpreter computes rightly."""
    return [
        pytest.param(OPS[name], sample, dtype, id=f"{name}-{sample.id}-{dtype}")
        for name in names
        for sample in OPS[name].samples()
        for dtype in DTYPES
    ]


def check_op(spec: OpSpec, sample: Sample, dtype: str, fn: Callable[..., Any]) -> None:
    """Compare ``fn`` with the op's reference in float32 from inputs rounded to ``dtype``.

    Gaps of strided views hold NaN, and the arguments must come out unchanged.
    """
    narrow = getattr(torch, dtype)
    wide = narrow if spec.exact_outputs else torch.float32
    args = {n: _as(v, _kept(spec, sample, n, narrow)) for n, v in sample.args.items()}
    plain = {
        n: _as(_as(v, _kept(spec, sample, n, narrow)), _kept(spec, sample, n, wide))
        for n, v in sample.args.items()
    }
    before = {n: v.clone() for n, v in args.items() if isinstance(v, Tensor)}
    got = outputs_of(fn(**args))
    for name, old in before.items():
        assert torch.equal(args[name], old), f"{name} was changed"
    want = outputs_of(spec.reference(**plain))
    for one in got:
        assert not one.is_floating_point() or one.dtype in (narrow, torch.float32)
    limits = (EXACT,) if spec.exact_outputs else spec.tolerances[dtype]
    compare(got, want, limits, sample.scale)


def _kept(spec: OpSpec, sample: Sample, name: str, dtype: torch.dtype) -> torch.dtype:
    wide = name in spec.float32_args or name in sample.float32_args
    return torch.float32 if wide else dtype


def _as(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, LinearWeight):
        tensors = {n: _as(t, dtype) for n, t in value.tensors.items()}
        bias = None if value.bias is None else _as(value.bias, dtype)
        return LinearWeight(value.out_features, value.in_features, tensors, bias, value.scheme)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if value.is_contiguous():
        return value.to(dtype)
    size = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    gaps = torch.full((max(size, 0),), float("nan"), dtype=dtype)
    return gaps.as_strided(value.shape, value.stride()).copy_(value)


def kit_cases(cases: Iterable[Case]) -> list[Any]:
    """Cases of the conformance kit as parameters; those that it would skip are left out."""
    return [pytest.param(case, id=case.id) for case in cases if not case.skip]
