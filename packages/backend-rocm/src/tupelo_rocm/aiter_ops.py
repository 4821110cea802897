"""Ops by AITER's Triton kernels: norms and experts as records of the contract, and products as one
of the ways that are measured.

AITER has sizes for gfx942 and gfx950 alone. Its sorting of tokens by expert is not used: it is
compiled anew for every number of tokens.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tupelo.ops import Kernel, LinearWeight, OpCall, Tier
from tupelo.specs import NO_QUANT
from tupelo.triton.activation import ACTIVATIONS
from tupelo.triton.elementary import cdiv
from tupelo.triton.products import Library
from tupelo_rocm.aiter_calls import AiterError, load

ARCHS = ("gfx942", "gfx950")
DTYPES = ("bfloat16", "float16")


def aiter_kernels(arch: str) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """The ops that AITER has here, and why it lacks others.

    Args:
        arch: LLVM's name of the architecture.
    """
    if arch not in ARCHS:
        return (), (f"it has sizes for {' and '.join(ARCHS)}, not for {arch}",)
    kernels: list[Kernel] = []
    refused: list[str] = []
    for op, (needed, make) in _MAKERS.items():
        try:
            fn = make(*[load(name) for name in needed])
        except AiterError as error:
            refused.append(f"{op}: {error}")
            continue
        kernels.append(
            Kernel(op=op, name=f"aiter_{op}", fn=fn, tier=Tier.VENDOR, supports=supports)
        )
    return tuple(kernels), tuple(refused)


def aiter_product(arch: str) -> Library | None:
    """``linear`` by AITER's product, a way to measure; None where it cannot be used."""
    if arch not in ARCHS:
        return None
    try:
        gemm = load("gemm_a16w16")
    except AiterError:
        return None

    def product(x: Tensor, weight: LinearWeight) -> Tensor:
        out: Tensor = gemm(x=x, w=weight.weight, bias=weight.bias, dtype=x.dtype)
        return out

    return product


def supports(call: OpCall) -> str | None:
    """None if AITER's kernels can serve a call, else the reason why not."""
    if call.dtype not in DTYPES:
        return f"computes in {' and '.join(DTYPES)}, not {call.dtype}"
    if call.scheme != NO_QUANT:
        return f"reads plain weights, not {call.scheme.name}"
    if dict(call.statics).get("activation", "silu") not in ACTIVATIONS:
        return f"has the activations {' and '.join(ACTIVATIONS)}"
    return None


def _rms_norm(norm: Callable[..., Any]) -> Callable[..., Any]:
    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if not len(rows):
            return torch.empty_like(x)
        out: Tensor = norm(input=rows, weight=weight, epsilon=eps)
        return out.view(x.shape)

    return rms_norm


def _add_rms_norm(norm: Callable[..., Any]) -> Callable[..., Any]:
    def add_rms_norm(
        x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        # It takes the rows of all four to lie equally far apart.
        x, residual = x.contiguous(), residual.contiguous()
        out, total = torch.empty_like(x), torch.empty_like(x)
        if len(x):
            norm(
                out=out,
                input=x,
                residual_in=residual,
                residual_out=total,
                weight=weight,
                epsilon=eps,
            )
        return out, total

    return add_rms_norm


def _moe_experts(fused: Callable[..., Any], best: Callable[..., Any]) -> Callable[..., Any]:
    import triton.language as tl

    types = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}

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
        if gate_up_bias is not None or down_bias is not None:
            from tupelo.triton.moe import moe_experts as portable

            biases = (gate_up_bias, down_bias)
            return portable(x, weights, experts, activation, gate_up, down, *biases)
        rows, top_k = experts.shape
        if not rows:
            return torch.empty_like(x)
        config = dict(best(dtype=x.dtype, M=rows))
        sorted_pairs, tile_experts, num_padded = align(
            experts, gate_up.shape[0], config["BLOCK_SIZE_M"]
        )
        run = functools.partial(
            fused,
            A_scale=None,
            B_scale=None,
            B_zp=None,
            topk_weights=weights,
            topk_ids=experts,
            sorted_token_ids=sorted_pairs,
            expert_ids=tile_experts,
            num_tokens_post_padded=num_padded,
            compute_type=types[x.dtype],
            use_fp8_w8a8=False,
            use_int8_w8a16=False,
            use_int4_w4a16=False,
            config=config,
        )
        wide = x.new_empty((rows, top_k, gate_up.shape[1]))
        run(A=x, B=gate_up, C=wide, mul_routed_weight=False, top_k=top_k)
        hidden = ACTIVATIONS[activation](wide.flatten(0, 1))
        parts = x.new_empty((rows, top_k, down.shape[1]))
        run(A=hidden, B=down, C=parts.view(-1, 1, down.shape[1]), mul_routed_weight=True, top_k=1)
        return parts.sum(1, dtype=torch.float32).to(x.dtype)

    return moe_experts


def align(experts: Tensor, num_experts: int, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of token and expert, sorted by expert, each expert's padded to whole tiles.

    Args:
        experts: (num_tokens, top_k) ids.

    Returns:
        (room,) int32 pairs, ``num_tokens * top_k`` for padding; (room / tile,) int32, the expert of
        each tile; (1,) int32, how much of the room is used. A fixed number of device operations;
        the room is a bound that the host knows.
    """
    flat = experts.flatten()
    pairs = flat.shape[0]
    room = cdiv(pairs, tile) * tile + min(num_experts, pairs) * tile
    order = torch.argsort(flat, stable=True)
    sorted_ids = flat[order]
    ids = torch.arange(num_experts, device=flat.device)
    ends = torch.searchsorted(sorted_ids, ids, right=True)
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    padded_ends = torch.cumsum((counts + tile - 1) // tile * tile, 0)
    shift = padded_ends - (counts + tile - 1) // tile * tile - (ends - counts)
    places = torch.arange(pairs, device=flat.device) + shift[sorted_ids]
    listed = torch.full((room,), pairs, dtype=torch.int32, device=flat.device)
    listed[places] = order.int()
    starts = torch.arange(0, room, tile, device=flat.device)
    owners = torch.searchsorted(padded_ends, starts, right=True).clamp(max=num_experts - 1)
    return listed, owners.int(), padded_ends[-1:].int()


_MAKERS: dict[str, tuple[Sequence[str], Callable[..., Callable[..., Any]]]] = {
    "rms_norm": (("rms_norm",), _rms_norm),
    "add_rms_norm": (("rmsnorm2d_fwd_with_add",), _add_rms_norm),
    "moe_experts": (("fused_moe", "get_optimal_moe_config"), _moe_experts),
}
