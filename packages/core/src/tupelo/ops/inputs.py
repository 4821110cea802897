"""A sample's arguments in a type, on a device, and what the op makes of them."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tupelo.ops.compare import outputs_of
from tupelo.ops.spec import OpSpec, Sample
from tupelo.ops.weight import LinearWeight


def rounded(spec: OpSpec, sample: Sample, dtype: str, device: torch.device) -> dict[str, Any]:
    """A sample's arguments in ``dtype`` on a device; views stay views, with NaN in the gaps."""
    keep = (*spec.float32_args, *sample.float32_args)
    moved: dict[str, Any] = {}
    for name, value in sample.args.items():
        wanted = torch.float32 if name in keep else getattr(torch, dtype)
        if isinstance(value, Tensor):
            moved[name] = _move(value, wanted, device)
        elif isinstance(value, LinearWeight):
            tensors = {n: _move(t, wanted, device) for n, t in value.tensors.items()}
            bias = None if value.bias is None else _move(value.bias, wanted, device)
            moved[name] = LinearWeight(
                value.out_features, value.in_features, tensors, bias, value.scheme
            )
        else:
            moved[name] = value
    return moved


def reference_outputs(spec: OpSpec, sample: Sample, dtype: str) -> tuple[Tensor, ...]:
    """What the op is: of inputs rounded to ``dtype``, computed in float32 (or copied exactly)."""
    wide = getattr(torch, dtype) if spec.exact_outputs else torch.float32
    wide_args = (*spec.float32_args, *sample.float32_args)
    ready: dict[str, Any] = {}
    for name, value in sample.args.items():
        narrow = torch.float32 if name in wide_args else getattr(torch, dtype)
        keep = torch.float32 if name in wide_args else wide
        if isinstance(value, LinearWeight):
            tensors = {n: _round(t, narrow, keep) for n, t in value.tensors.items()}
            bias = None if value.bias is None else _round(value.bias, narrow, keep)
            value = LinearWeight(value.out_features, value.in_features, tensors, bias, value.scheme)
        ready[name] = _round(value, narrow, keep) if isinstance(value, Tensor) else value
    return outputs_of(spec.reference(**ready))


def _round(value: Tensor, narrow: torch.dtype, wide: torch.dtype) -> Tensor:
    return value.to(narrow).to(wide) if value.is_floating_point() else value


def _move(value: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    if not value.is_floating_point():
        return value.to(device)
    if value.is_contiguous():
        return value.to(device, dtype)
    # Cut out of a larger tensor, axis by axis: some devices have slices, but no strides.
    steps = value.stride()
    wider = [value.shape[0], *(a // b for a, b in pairwise(steps)), steps[-1]]
    view = torch.full(wider, float("nan"), dtype=dtype, device=device)[..., 0]
    for axis, size in enumerate(value.shape):
        view = view.narrow(axis, 0, size)
    assert view.device.type != "cpu" or view.stride() == steps, "a sample's gaps are no slices"
    return view.copy_(value)
