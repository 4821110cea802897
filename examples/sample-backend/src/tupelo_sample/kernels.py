"""Kernels: each an op of core with the very signature of its reference."""

import torch.nn.functional as F
from torch import Tensor

from tupelo.backend import Kernel, LinearWeight, OpCall


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``tupelo.ops.norm.rms_norm``: in float32 whatever the type of ``x``."""
    return F.rms_norm(x.float(), (x.shape[-1],), weight.float(), eps).to(x.dtype)


def silu_mul(x: Tensor) -> Tensor:
    """See ``tupelo.ops.activation.silu_mul``."""
    size = x.shape[-1] // 2
    return F.silu(x[..., :size]) * x[..., size:]


def pack(weight: LinearWeight) -> tuple[Tensor, Tensor | None]:
    """The layout that ``linear`` wants: (in_features, out_features). Called once, at load."""
    assert weight.weight is not None
    return weight.weight.t().contiguous(), weight.bias


def linear(x: Tensor, weight: tuple[Tensor, Tensor | None]) -> Tensor:
    """See ``tupelo.ops.linear.linear``; ``weight`` is what ``pack`` returned."""
    matrix, bias = weight
    product = x @ matrix
    return product if bias is None else product + bias


def _float32_only(call: OpCall) -> str | None:
    """A kernel says why it cannot serve a call; the next candidate is asked then."""
    return None if call.dtype == "float32" else f"no {call.dtype}"


KERNELS = (
    Kernel(op="rms_norm", name="sample_rms_norm", fn=rms_norm),
    Kernel(op="silu_mul", name="sample_silu_mul", fn=silu_mul),
    Kernel(op="linear", name="sample_linear", fn=linear, pack=pack, supports=_float32_only),
)
