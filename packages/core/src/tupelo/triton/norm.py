# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Root-mean-square norms: rows of hidden states, heads, and fused with the residual addition.

Ops: ``rms_norm``, ``add_rms_norm``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.triton.elementary import cdiv, power_of_two

TILE = 1024
"""Elements that one program norms at least: several rows where rows are short, as heads are."""


@triton.jit(do_not_specialize=["num_rows"])
def _rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
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
):
    """Program i norms rows ``i * ROWS …``; row r lies at ``r // inner_rows, r % inner_rows``."""
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
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / WIDTH + eps)
    weight = tl.load(weight_ptr + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    normed = wide * scale[:, None] * weight[None, :]
    tl.store(out_ptr + dense, normed.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``tupelo.ops.norm.rms_norm``; ``x`` (num_tokens, hidden_size) or (num_tokens, num_heads,
    head_dim), with gaps between its rows and heads if need be."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(x, None, weight, eps, out, None)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As ``tupelo.ops.norm.add_rms_norm``."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = torch.empty_like(out)
    _launch(x, residual, weight, eps, out, total)
    return out, total


def _launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    out: Tensor,
    total: Tensor | None,
) -> None:
    width = x.shape[-1]
    num_rows = x.numel() // width
    if not num_rows:
        return
    block = power_of_two(width)
    rows = max(1, TILE // block)
    _rms_norm_kernel[(cdiv(num_rows, rows),)](
        x,
        x if residual is None else residual,
        weight,
        out,
        out if total is None else total,
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
        num_warps=min(16, max(4, block // 512)),
    )
