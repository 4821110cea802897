# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Gated activations. Ops: ``silu_mul``, ``gelu_mul``."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.triton.elementary import activate, cdiv, power_of_two

BLOCK = 1024


@triton.jit
def _gate_mul_kernel(
    x_ptr, out_ptr, x_stride, width, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):
    """Program (row, block of columns): ``act(x[row, c]) * x[row, width + c]``."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    start = x_ptr + row * x_stride
    gate = tl.load(start + cols, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + width + cols, mask=inside, other=0.0).to(tl.float32)
    out = activate(gate, ACTIVATION) * up
    tl.store(out_ptr + row * width + cols, out.to(out_ptr.dtype.element_ty), mask=inside)


def silu_mul(x: Tensor) -> Tensor:
    """As ``tupelo.ops.activation.silu_mul``: ``x`` (num_tokens, 2 * width)."""
    return _gate_mul(x, "silu")


def gelu_mul(x: Tensor) -> Tensor:
    """As ``tupelo.ops.activation.gelu_mul``: ``x`` (num_tokens, 2 * width)."""
    return _gate_mul(x, "gelu")


def _gate_mul(x: Tensor, activation: str) -> Tensor:
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        block = min(BLOCK, power_of_two(width))
        grid = (rows, cdiv(width, block))
        _gate_mul_kernel[grid](x, out, x.stride(0), width, ACTIVATION=activation, BLOCK=block)
    return out


ACTIVATIONS = {"silu": silu_mul, "gelu": gelu_mul}
"""By the name that ``gated_mlp`` and ``moe_experts`` take."""
