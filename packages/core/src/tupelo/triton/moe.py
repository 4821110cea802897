# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Mixture of experts: the experts' gated products, tokens sorted by expert. Op: ``moe_experts``.

A pair is one token at one of its experts. Pairs are sorted by expert and cut into tiles, each of
one expert; the number of tiles is bounded by sizes that the host knows, and tiles that are not
needed end at once. Source of the sort: the grouping of Gale et al., "MegaBlocks", 2023.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.ops import moe as reference
from tupelo.triton.elementary import activate, cdiv, power_of_two, silu

CLAMP = tl.constexpr(reference.CLAMP)
SHARPNESS = tl.constexpr(reference.SHARPNESS)


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """How the two products are launched.

    Attributes:
        block_m: pairs of one program, all of one expert. block_n: outputs of one program.
        block_k: inputs of one step of its loop.
        num_warps, num_stages: Triton's.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


@dataclass(slots=True)
class _Groups:
    """Pairs sorted by expert.

    Attributes:
        order: (num_pairs,) the pair at each place. ends: (num_experts,) place after each expert's
            last pair. tile_ends: (num_experts,) tile after each expert's last tile.
        num_tiles: bound of the tiles.
    """

    order: Tensor
    ends: Tensor
    tile_ends: Tensor
    num_tiles: int


@triton.jit
def _tile_of(tile_ends_ptr, ends_ptr, tile, E: tl.constexpr, EXPERTS: tl.constexpr):
    """The expert of a tile (E: no such tile), its first tile, and its first and last place."""
    ids = tl.arange(0, EXPERTS)
    tile_ends = tl.load(tile_ends_ptr + ids, mask=ids < E, other=2147483647)
    expert = tl.sum((tile_ends <= tile).to(tl.int32), axis=0)
    before = tl.maximum(expert - 1, 0)
    first_tile = tl.where(expert > 0, tl.load(tile_ends_ptr + before), 0)
    begin = tl.where(expert > 0, tl.load(ends_ptr + before), 0)
    end = tl.load(ends_ptr + tl.minimum(expert, E - 1))
    return expert, first_tile, begin, end


@triton.jit(do_not_specialize_on_alignment=["order_ptr", "ends_ptr", "tile_ends_ptr"])
def _experts_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    out_ptr,
    order_ptr,
    ends_ptr,
    tile_ends_ptr,
    x_stride,
    expert_stride,
    w_stride,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PAIRS_A_ROW: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Program (block of outputs, tile): ``out[pair] = x[pair // PAIRS_A_ROW] @ w[expert].T``; with
    an ACTIVATION, gated, as in ``small_linear``; with BIAS, the expert's is added before."""
    tile = tl.program_id(1)
    expert, first_tile, begin, end = _tile_of(tile_ends_ptr, ends_ptr, tile, E, EXPERTS)
    if expert < E:
        places = begin + (tile - first_tile) * BLOCK_M + tl.arange(0, BLOCK_M)
        mine = places < end
        pairs = tl.load(order_ptr + places, mask=mine, other=0)
        rows = (pairs // PAIRS_A_ROW).to(tl.int64)
        outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        in_n = outputs < N
        weight = w_ptr + expert.to(tl.int64) * expert_stride + outputs[:, None] * w_stride
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, K, BLOCK_K):
            cols = start + tl.arange(0, BLOCK_K)
            in_k = (cols < K)[None, :]
            x_at = x_ptr + rows[:, None] * x_stride + cols[None, :]
            x = tl.load(x_at, mask=mine[:, None] & in_k, other=0.0)
            w = tl.load(weight + cols[None, :], mask=in_n[:, None] & in_k, other=0.0)
            acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
            if ACTIVATION != "":
                up_at = weight + N * w_stride.to(tl.int64) + cols[None, :]
                w = tl.load(up_at, mask=in_n[:, None] & in_k, other=0.0)
                up = tl.dot(x, tl.trans(w), up, input_precision="ieee")
        if BIAS:
            bias_at = bias_ptr + expert * (N if ACTIVATION == "" else 2 * N) + outputs
            acc += tl.load(bias_at, mask=in_n, other=0.0).to(tl.float32)[None, :]
            if ACTIVATION != "":
                up += tl.load(bias_at + N, mask=in_n, other=0.0).to(tl.float32)[None, :]
        if ACTIVATION == "swiglu_clamped":
            acc = tl.minimum(acc, CLAMP)
            up = tl.minimum(tl.maximum(up, -CLAMP), CLAMP)
            acc = silu(acc * SHARPNESS) / SHARPNESS * (up + 1.0)
        elif ACTIVATION != "":
            acc = activate(acc, ACTIVATION) * up
        to = out_ptr + pairs.to(tl.int64)[:, None] * N + outputs[None, :]
        tl.store(to, acc.to(out_ptr.dtype.element_ty), mask=mine[:, None] & in_n[None, :])


@triton.jit
def _combine_kernel(
    y_ptr,
    weights_ptr,
    out_ptr,
    weights_stride,
    H: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (token, block of outputs): the sum over the token's experts, in order."""
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < H
    acc = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(TOP_K):
        y = tl.load(y_ptr + (token * TOP_K + k) * H + cols, mask=inside, other=0.0)
        acc += y.to(tl.float32) * tl.load(weights_ptr + token * weights_stride + k)
    tl.store(out_ptr + token * H + cols, acc.to(out_ptr.dtype.element_ty), mask=inside)


def moe_experts(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    activation: str,
    gate_up: Tensor,
    down: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
) -> Tensor:
    """As ``tupelo.ops.moe.moe_experts``."""
    biases = (gate_up_bias, down_bias)
    config = moe_config(x, gate_up)
    return run_experts(x, weights, experts, activation, gate_up, down, *biases, config=config)


def moe_config(x: Tensor, gate_up: Tensor) -> MoEConfig:
    """Tiles as high as the pairs of one expert are likely to fill; 16 to 64 pairs."""
    pairs = x.shape[0] * 2  # top_k is 2 or more where there is a choice
    height = min(64, max(16, power_of_two(cdiv(pairs, gate_up.shape[0]))))
    wide = x.element_size() > 2
    return MoEConfig(height, 32, 32 if wide else 64, 4, 2 if wide else 3)


def run_experts(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    activation: str,
    gate_up: Tensor,
    down: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    *,
    config: MoEConfig,
) -> Tensor:
    """``moe_experts``, launched as told."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows, top_k = experts.shape
    if not rows:
        return out
    groups = _group(experts, gate_up.shape[0], config.block_m)
    hidden = _grouped(x, gate_up, gate_up_bias, groups, top_k, activation, config)
    y = _grouped(hidden, down, down_bias, groups, 1, "", config)
    width = down.shape[1]
    block = min(1024, power_of_two(width))
    _combine_kernel[(rows, cdiv(width, block))](
        y, weights, out, weights.stride(0), H=width, TOP_K=top_k, BLOCK=block
    )
    return out


def _group(experts: Tensor, num_experts: int, block_m: int) -> _Groups:
    """Sort the pairs; every step is a fixed number of device operations."""
    flat = experts.flatten()
    order = torch.argsort(flat, stable=True)
    ids = torch.arange(num_experts, device=flat.device)
    ends = torch.searchsorted(flat[order], ids, right=True).int()
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    tile_ends = torch.cumsum((counts + block_m - 1) // block_m, 0, dtype=torch.int32)
    # Every expert with pairs has less than one tile more than its pairs fill.
    num_tiles = flat.shape[0] // block_m + min(num_experts, flat.shape[0])
    return _Groups(order, ends, tile_ends, num_tiles)


def _grouped(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: _Groups,
    pairs_a_row: int,
    activation: str,
    config: MoEConfig,
) -> Tensor:
    """(num_pairs, outputs), in the order of the pairs."""
    num_experts, outputs, features = weight.shape
    outputs //= 2 if activation else 1
    out = torch.empty((groups.order.shape[0], outputs), dtype=x.dtype, device=x.device)
    _experts_kernel[(cdiv(outputs, config.block_n), groups.num_tiles)](
        x,
        weight,
        weight if bias is None else bias,
        out,
        groups.order,
        groups.ends,
        groups.tile_ends,
        x.stride(0),
        weight.stride(0),
        weight.stride(1),
        E=num_experts,
        EXPERTS=power_of_two(num_experts),
        N=outputs,
        K=features,
        PAIRS_A_ROW=pairs_a_row,
        BIAS=bias is not None,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        ACTIVATION=activation,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
