# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Small ops that work row by row. Ops: ``embedding``, ``merge_attention``, ``quantize``."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.triton.elementary import cdiv, power_of_two

BLOCK = 1024


@triton.jit(do_not_specialize_on_alignment=["ids_ptr"])
def _embedding_kernel(
    ids_ptr,
    table_ptr,
    out_ptr,
    table_stride,
    width,
    scale,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (token, block of columns)."""
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    row = tl.load(ids_ptr + token).to(tl.int64)
    x = tl.load(table_ptr + row * table_stride + cols, mask=inside)
    if SCALED:
        x = (x.to(tl.float32) * scale).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token * width + cols, x, mask=inside)


@triton.jit
def _merge_kernel(
    out_a_ptr,
    lse_a_ptr,
    out_b_ptr,
    lse_b_ptr,
    out_ptr,
    lse_ptr,
    a_token_stride,
    a_head_stride,
    b_token_stride,
    b_head_stride,
    lse_a_stride,
    lse_b_stride,
    HEADS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    D: tl.constexpr,
):
    """Program: one token, all heads."""
    token = tl.program_id(0).to(tl.int64)
    heads, cols = tl.arange(0, HEADS_BLOCK), tl.arange(0, D)
    in_heads = heads < HEADS
    inside = in_heads[:, None] & (cols < HEAD_DIM)[None, :]
    lse_a = tl.load(lse_a_ptr + token * lse_a_stride + heads, mask=in_heads, other=0.0)
    lse_b = tl.load(lse_b_ptr + token * lse_b_stride + heads, mask=in_heads, other=0.0)
    peak = tl.maximum(lse_a, lse_b)
    weight_a, weight_b = tl.exp(lse_a - peak), tl.exp(lse_b - peak)
    total = weight_a + weight_b
    a_at = token * a_token_stride + heads[:, None] * a_head_stride + cols[None, :]
    b_at = token * b_token_stride + heads[:, None] * b_head_stride + cols[None, :]
    a = tl.load(out_a_ptr + a_at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(out_b_ptr + b_at, mask=inside, other=0.0).to(tl.float32)
    merged = (a * weight_a[:, None] + b * weight_b[:, None]) / total[:, None]
    to = out_ptr + (token * HEADS + heads)[:, None] * HEAD_DIM + cols[None, :]
    tl.store(to, merged.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + token * HEADS + heads, peak + tl.log(total), mask=in_heads)


@triton.jit
def _quantize_kernel(x_ptr, out_ptr, scale_ptr, x_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Program: one row."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < WIDTH
    x = tl.load(x_ptr + row * x_stride + cols, mask=inside, other=0.0).to(tl.float32)
    scale = tl.max(tl.abs(x), axis=0) / 127.0
    scale = tl.where(scale == 0.0, 1.0, scale)
    steps = tl.floor(tl.minimum(tl.maximum(x / scale, -127.0), 127.0) + 0.5)
    tl.store(out_ptr + row * WIDTH + cols, steps.to(tl.int8), mask=inside)
    tl.store(scale_ptr + row, scale)


@lru_cache(maxsize=64)
def _rounded(scale: float, dtype: torch.dtype) -> float:
    """A scale as it is once rounded to a type."""
    return float(torch.tensor(scale, dtype=dtype))


def embedding(ids: Tensor, table: Tensor, scale: float) -> Tensor:
    """As ``tupelo.ops.embedding.embedding``."""
    width = table.shape[1]
    out = torch.empty((ids.shape[0], width), dtype=table.dtype, device=table.device)
    if ids.shape[0]:
        block = min(BLOCK, power_of_two(width))
        _embedding_kernel[(ids.shape[0], cdiv(width, block))](
            ids,
            table,
            out,
            table.stride(0),
            width,
            _rounded(scale, table.dtype),
            SCALED=scale != 1.0,
            BLOCK=block,
        )
    return out


def merge_attention(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """As ``tupelo.ops.merge.merge_attention``."""
    out = torch.empty(out_a.shape, dtype=out_a.dtype, device=out_a.device)
    lse = torch.empty(lse_a.shape, dtype=torch.float32, device=out_a.device)
    tokens, heads, dim = out_a.shape
    if tokens:
        _merge_kernel[(tokens,)](
            out_a,
            lse_a,
            out_b,
            lse_b,
            out,
            lse,
            out_a.stride(0),
            out_a.stride(1),
            out_b.stride(0),
            out_b.stride(1),
            lse_a.stride(0),
            lse_b.stride(0),
            HEADS=heads,
            HEADS_BLOCK=power_of_two(heads),
            HEAD_DIM=dim,
            D=power_of_two(dim),
        )
    return out, lse


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """As ``tupelo.ops.quantize.quantize``; halves round up, which is within one step."""
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=torch.int8, device=x.device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    if rows:
        block = power_of_two(width)
        warps = min(16, max(4, block // 512))
        _quantize_kernel[(rows,)](
            x, out, scale, x.stride(0), WIDTH=width, BLOCK=block, num_warps=warps
        )
    return out, scale
