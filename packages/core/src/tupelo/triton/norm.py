# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Root-mean-square and layer norms, alone and fused with the residual addition.

Ops: ``rms_norm``, ``add_rms_norm``, ``layer_norm``, ``add_layer_norm``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.triton.elementary import cdiv, power_of_two

TILE = 1024
"""Elements that one program norms at least: several rows where rows are short, as heads are."""


@triton.jit(do_not_specialize=["num_rows"])
def _norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    total_ptr,
    num_rows,
    inner_rows,
    outer_stride,
    inner_stride,
    residual_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    CENTER: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Program i norms rows ``i * ROWS …``; row r lies at ``r // inner_rows, r % inner_rows``. With
    CENTER a row's mean goes first, which makes it a layer norm."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    inside = (rows < num_rows)[:, None] & (cols < WIDTH)[None, :]
    outer = (rows // inner_rows).to(tl.int64) * outer_stride
    start = outer + (rows % inner_rows) * inner_stride
    x = tl.load(x_ptr + start[:, None] + cols[None, :], mask=inside, other=0.0)
    dense = rows.to(tl.int64)[:, None] * WIDTH + cols[None, :]
    if ADD:
        where = rows.to(tl.int64)[:, None] * residual_stride + cols[None, :]
        residual = tl.load(residual_ptr + where, mask=inside, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + dense, x, mask=inside)
    wide = x.to(tl.float32)
    if CENTER:
        # Twice: of a row of nearly one value, what remains is as small as the mean's rounding.
        for _ in tl.static_range(2):
            mean = tl.sum(wide, axis=1) / WIDTH
            wide = tl.where(inside, wide - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / WIDTH + eps)
    weight = tl.load(weight_ptr + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    normed = wide * scale[:, None] * weight[None, :]
    if BIAS:
        bias = tl.load(bias_ptr + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
        normed += bias[None, :]
    tl.store(out_ptr + dense, normed.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``tupelo.ops.norm.rms_norm``; ``x`` (num_tokens, hidden_size) or (num_tokens, num_heads,
    head_dim), with gaps between its rows and heads if need be."""
    return _norm(x, None, weight, None, eps, center=False)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As ``tupelo.ops.norm.add_rms_norm``."""
    return _norm(x, residual, weight, None, eps, center=False)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """As ``tupelo.ops.norm.layer_norm``."""
    return _norm(x, None, weight, bias, eps, center=True)[0]


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """As ``tupelo.ops.norm.add_layer_norm``."""
    return _norm(x, residual, weight, bias, eps, center=True)


def _norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    *,
    center: bool,
) -> tuple[Tensor, Tensor]:
    """The normed rows, and the sum with the residual; without one, the normed rows twice."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = out if residual is None else torch.empty_like(out)
    width = x.shape[-1]
    num_rows = x.numel() // width
    if not num_rows:
        return out, total
    block = power_of_two(width)
    rows = max(1, TILE // block)
    _norm_kernel[(cdiv(num_rows, rows),)](
        x,
        x if residual is None else residual,
        weight,
        weight if bias is None else bias,
        out,
        total,
        num_rows,
        1 if x.dim() == 2 else x.shape[1],
        x.stride(0),
        0 if x.dim() == 2 else x.stride(1),
        0 if residual is None else residual.stride(0),
        eps,
        WIDTH=width,
        BLOCK=block,
        ROWS=rows,
        ADD=residual is not None,
        CENTER=center,
        BIAS=bias is not None,
        num_warps=min(16, max(4, block // 512)),
    )
    return out, total
