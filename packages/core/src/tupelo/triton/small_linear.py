# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The product of 2 to 64 rows with a weight: a program takes all rows, so weights are read once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.elementary import activate, cdiv, power_of_two
from tupelo.triton.linear_config import LinearConfig

_ADD_BLOCK = 1024


@triton.jit
def _weight_tile(w_ptr, outputs, w_stride, cols, N, K, EVEN: tl.constexpr):
    """(outputs, cols) of the weight, zeros outside of it."""
    at = w_ptr + outputs.to(tl.int64)[:, None] * w_stride + cols[None, :]
    if EVEN:
        return tl.load(at, eviction_policy="evict_first")
    else:
        inside = (outputs < N)[:, None] & (cols < K)[None, :]
        return tl.load(at, mask=inside, other=0.0, eviction_policy="evict_first")


@triton.jit(do_not_specialize=["num_rows"])
def _tile_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    out_ptr,
    x_stride,
    w_stride,
    num_rows,
    N: tl.constexpr,
    K: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Program (block of outputs, split of the inputs). With an ACTIVATION the weight has 2 N rows
    as in ``gemv``. With SPLITS ``out`` is (SPLITS, num_rows, N) float32, without bias."""
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.arange(0, M)
    in_rows = (rows < num_rows)[:, None]
    share: tl.constexpr = (K + SPLITS * BLOCK_K - 1) // (SPLITS * BLOCK_K) * BLOCK_K
    first = tl.program_id(1) * share
    even: tl.constexpr = N % BLOCK_N == 0 and K % BLOCK_K == 0
    acc = tl.zeros((M, BLOCK_N), tl.float32)
    up = tl.zeros((M, BLOCK_N), tl.float32)
    for start in range(first, tl.minimum(first + share, K), BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        at = x_ptr + rows[:, None] * x_stride + cols[None, :]
        x = tl.load(at, mask=in_rows & (cols < K)[None, :], other=0.0)
        w = _weight_tile(w_ptr, outputs, w_stride, cols, N, K, even)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
        if ACTIVATION != "":
            up_rows = w_ptr + N * w_stride.to(tl.int64)
            w = _weight_tile(up_rows, outputs, w_stride, cols, N, K, even)
            up = tl.dot(x, tl.trans(w), up, input_precision="ieee")
    in_n = outputs < N
    if BIAS:
        acc += tl.load(bias_ptr + outputs, mask=in_n, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION != "":
        if BIAS:
            up += tl.load(bias_ptr + N + outputs, mask=in_n, other=0.0).to(tl.float32)[None, :]
        acc = activate(acc, ACTIVATION) * up
    to = out_ptr + (tl.program_id(1) * num_rows + rows)[:, None] * N + outputs[None, :]
    tl.store(to, acc.to(out_ptr.dtype.element_ty), mask=in_rows & in_n[None, :])


@triton.jit(do_not_specialize=["total"])
def _add_kernel(
    part_ptr,
    bias_ptr,
    out_ptr,
    total,
    N: tl.constexpr,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the splits' sums, in order, and the bias; ``total`` is rows times N."""
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < total
    acc = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        acc += tl.load(part_ptr + split * total + element, mask=inside, other=0.0)
    if BIAS:
        acc += tl.load(bias_ptr + element % N, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + element, acc.to(out_ptr.dtype.element_ty), mask=inside)


def small_linear(
    x: Tensor, weight: LinearWeight, config: LinearConfig, activation: str = ""
) -> Tensor:
    """``linear`` of few rows; with an activation ``act_mul(linear(x, weight))``.

    Args:
        x: (num_tokens, in_features), up to ``MAX_ROWS`` tokens.
        weight: (out_features, in_features); gate rows, then up rows, where there is an activation.
        config: without splits where there is an activation.
        activation: ``""``, ``"silu"`` or ``"gelu"``.

    Returns:
        (num_tokens, out_features), or (num_tokens, out_features / 2).
    """
    assert config.splits == 1 or not activation
    matrix, bias, rows = weight.weight, weight.bias, x.shape[0]
    outputs = weight.out_features // (2 if activation else 1)
    out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    if not rows:
        return out
    split = config.splits > 1
    shape = (config.splits, rows, outputs)
    to = torch.empty(shape, dtype=torch.float32, device=x.device) if split else out
    unused = matrix if bias is None else bias
    _tile_kernel[(cdiv(outputs, config.block_n), config.splits)](
        x,
        matrix,
        unused,
        to,
        x.stride(0),
        matrix.stride(0),
        rows,
        N=outputs,
        K=weight.in_features,
        M=max(16, power_of_two(rows)),
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        SPLITS=config.splits,
        BIAS=bias is not None and not split,
        ACTIVATION=activation,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if split:
        total = rows * outputs
        _add_kernel[(cdiv(total, _ADD_BLOCK),)](
            to,
            unused,
            out,
            total,
            N=outputs,
            SPLITS=config.splits,
            BIAS=bias is not None,
            BLOCK=_ADD_BLOCK,
        )
    return out
