# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Activations, gated and plain. Ops: ``silu_mul``, ``gelu_mul``; and those within ``mlp``."""

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.triton.elementary import activate, cdiv, power_of_two

BLOCK = 1024


@triton.jit
def _activation_kernel(
    x_ptr,
    out_ptr,
    x_stride,
    width,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (row, block of columns): ``act(x[row, c])``; GATED: times ``x[row, width + c]``."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    start = x_ptr + row * x_stride
    x = tl.load(start + cols, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        up = tl.load(start + width + cols, mask=inside, other=0.0).to(tl.float32)
        out = activate(x, ACTIVATION) * up
    else:
        out = activate(x, ACTIVATION)
    tl.store(out_ptr + row * width + cols, out.to(out_ptr.dtype.element_ty), mask=inside)


def silu_mul(x: Tensor) -> Tensor:
    """As ``tupelo.ops.activation.silu_mul``: ``x`` (num_tokens, 2 * width)."""
    return _activated("silu", True, x)


def gelu_mul(x: Tensor) -> Tensor:
    """As ``tupelo.ops.activation.gelu_mul``: ``x`` (num_tokens, 2 * width)."""
    return _activated("gelu", True, x)


def _activated(activation: str, gated: bool, x: Tensor) -> Tensor:
    rows, width = x.shape[0], x.shape[1] // (2 if gated else 1)
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        block = min(BLOCK, power_of_two(width))
        _activation_kernel[(rows, cdiv(width, block))](
            x, out, x.stride(0), width, ACTIVATION=activation, GATED=gated, BLOCK=block
        )
    return out


ACTIVATIONS = {"silu": silu_mul, "gelu": gelu_mul}
"""By the name that ``gated_mlp`` and ``moe_experts`` take."""

MLP_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_erf": partial(_activated, "gelu_erf", False),
    "gelu_tanh": partial(_activated, "gelu", False),
    "relu": partial(_activated, "relu", False),
    "gelu_erf_mul": partial(_activated, "gelu_erf", True),
}
"""By the name that ``mlp`` takes: (num_tokens, width) to the same, or to half of it for a gate."""
