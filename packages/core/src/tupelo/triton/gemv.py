# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The product of one row with a weight: as fast as the weight can be read.

A program owns a few rows of the weight and keeps their products with the input apart, elementwise,
until the end; weights are read once and marked as not worth keeping in cache. What stands before or
after the product costs no launch: residual addition and norm, or the gate of an MLP.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.elementary import activate, cdiv
from tupelo.triton.linear_config import LinearConfig


@triton.jit
def _weight_tile(w_ptr, rows, w_stride, cols, N, K, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr):
    """(rows, cols) of the weight in float32, zeros outside of it."""
    at = w_ptr + rows.to(tl.int64)[:, None] * w_stride + cols[None, :]
    if EVEN_N and EVEN_K:
        return tl.load(at, eviction_policy="evict_first").to(tl.float32)
    else:
        inside = (rows < N)[:, None] & (cols < K)[None, :]
        return tl.load(at, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)


@triton.jit
def _input_part(
    x_ptr,
    residual_ptr,
    total_ptr,
    norm_ptr,
    cols,
    K,
    ADD: tl.constexpr,
    NORM: tl.constexpr,
):
    """Part of the input, times the norm's weight, and its squares. The first program of all stores
    the sum with the residual."""
    inside = cols < K
    x = tl.load(x_ptr + cols, mask=inside, other=0.0)
    if ADD:
        residual = tl.load(residual_ptr + cols, mask=inside, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(total_ptr.dtype.element_ty)
        if tl.program_id(0) == 0:
            tl.store(total_ptr + cols, x, mask=inside)
    x = x.to(tl.float32)
    squares = x * x
    if NORM:
        x *= tl.load(norm_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    return x, squares


@triton.jit
def _gemv_kernel(
    x_ptr,
    residual_ptr,
    total_ptr,
    norm_ptr,
    w_ptr,
    bias_ptr,
    out_ptr,
    w_stride,
    eps,
    N: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BIAS: tl.constexpr,
    ADD: tl.constexpr,
    NORM: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Program i: outputs ``i * ROWS …`` of N. With an ACTIVATION the weight has 2 N rows, and
    output n is ``act(row n) * row (N + n)``. The norm's scale is applied to the sums: a product is
    linear."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    even_n: tl.constexpr = N % ROWS == 0
    even_k: tl.constexpr = K % BLOCK == 0
    acc = tl.zeros((ROWS, BLOCK), tl.float32)
    up = tl.zeros((ROWS, BLOCK), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, K, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        x, square = _input_part(x_ptr, residual_ptr, total_ptr, norm_ptr, cols, K, ADD, NORM)
        acc += x[None, :] * _weight_tile(w_ptr, rows, w_stride, cols, N, K, even_n, even_k)
        if ACTIVATION != "":
            up_rows = w_ptr + N * w_stride.to(tl.int64)
            up += x[None, :] * _weight_tile(up_rows, rows, w_stride, cols, N, K, even_n, even_k)
        if NORM:
            squares += square
    result = tl.sum(acc, axis=1)
    upper = tl.sum(up, axis=1)
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, axis=0) / K + eps)
        result *= scale
        upper *= scale
    if BIAS:
        result += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    if ACTIVATION != "":
        if BIAS:
            upper += tl.load(bias_ptr + N + rows, mask=rows < N, other=0.0).to(tl.float32)
        result = activate(result, ACTIVATION) * upper
    tl.store(out_ptr + rows, result.to(out_ptr.dtype.element_ty), mask=rows < N)


def gemv(x: Tensor, weight: LinearWeight, config: LinearConfig, activation: str = "") -> Tensor:
    """``linear`` of one row; with an activation ``act_mul(linear(x, weight))``.

    Args:
        x: (1, in_features).
        weight: (out_features, in_features); gate rows, then up rows, where there is an activation.
        activation: ``""``, ``"silu"`` or ``"gelu"``.

    Returns:
        (1, out_features), or (1, out_features / 2).
    """
    return _launch(x, None, None, None, 0.0, weight, config, activation)


def add_norm_gemv(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    weight: LinearWeight,
    config: LinearConfig,
    activation: str = "",
) -> tuple[Tensor, Tensor]:
    """``add_norm_linear`` of one row in one launch, with an activation as in ``gemv``.

    Returns:
        The product (1, out_features), or half of it, and the new residual (1, in_features).
    """
    total = x if residual is None else torch.empty_like(x)
    return _launch(x, residual, total, norm_weight, eps, weight, config, activation), total


def _launch(
    x: Tensor,
    residual: Tensor | None,
    total: Tensor | None,
    norm_weight: Tensor | None,
    eps: float,
    weight: LinearWeight,
    config: LinearConfig,
    activation: str,
) -> Tensor:
    matrix, bias = weight.weight, weight.bias
    outputs = weight.out_features // (2 if activation else 1)
    out = torch.empty((1, outputs), dtype=x.dtype, device=x.device)
    _gemv_kernel[(cdiv(outputs, config.block_n),)](
        x,
        x if residual is None else residual,
        x if total is None else total,
        x if norm_weight is None else norm_weight,
        matrix,
        matrix if bias is None else bias,
        out,
        matrix.stride(0),
        eps,
        N=outputs,
        K=weight.in_features,
        ROWS=config.block_n,
        BLOCK=config.block_k,
        BIAS=bias is not None,
        ADD=residual is not None,
        NORM=norm_weight is not None,
        ACTIVATION=activation,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
