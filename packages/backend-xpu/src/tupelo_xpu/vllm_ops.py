"""Ops by vllm-xpu-kernels: norms, activations, and the choice and products of experts.

Its rotation is not used: it wants the table of angles in 16 bits, and core's kernel norms, rotates
and stores in one launch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tupelo.ops import Kernel, OpCall, Tier
from tupelo.ops.moe import moe_route as plain_route
from tupelo.specs import NO_QUANT
from tupelo_xpu.vllm_calls import LibraryError, load

DTYPES = ("bfloat16", "float16")
ROUTE_EXPERTS = (4, 8, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512, 576, 1024)
"""Numbers of experts that its choice has kernels for."""

MOST_CHOSEN = 8
GATHERED = (1, 2, 4, 6, 8, 10)
"""Numbers of chosen experts whose outputs it sums."""

STEP = 8
"""Its products of experts want sizes that are multiples of this."""


def vllm_kernels() -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """The ops that it has here, and why it lacks others."""
    kernels: list[Kernel] = []
    refused: list[str] = []
    for op, (needed, make) in _MAKERS.items():
        try:
            fn = make(*[load(name) for name in needed])
        except LibraryError as error:
            refused.append(f"{op}: {error}")
            continue
        kernels.append(Kernel(op=op, name=f"vllm_{op}", fn=fn, tier=Tier.VENDOR, supports=supports))
    return tuple(kernels), tuple(refused)


def supports(call: OpCall) -> str | None:
    """None if its kernels can serve a call, else the reason why not."""
    statics = dict(call.statics)
    if call.dtype not in DTYPES and call.op != "moe_route":
        return f"computes in {' and '.join(DTYPES)}, not {call.dtype}"
    if call.scheme != NO_QUANT:
        return f"reads plain weights, not {call.scheme.name}"
    if statics.get("norm_dtype", call.dtype) != call.dtype:
        return f"takes the norm's weight in {call.dtype}, not {statics['norm_dtype']}"
    if call.op == "moe_route":
        return _why_not_route(call.shape, statics.get("scoring", "softmax"))
    if call.op == "moe_experts":
        return _why_not_experts(call.shape, statics.get("activation", "silu"))
    return None


def _why_not_route(shape: tuple[int, ...], scoring: str) -> str | None:
    num_experts, top_k = shape
    if num_experts not in ROUTE_EXPERTS or top_k > MOST_CHOSEN:
        return f"has no kernel for {top_k} of {num_experts} experts"
    if scoring != "softmax":
        return f"rounds scores by {scoring} to the logits' type"
    return None


def _why_not_experts(shape: tuple[int, ...], activation: str) -> str | None:
    _, top_k, hidden, inner = shape
    if top_k not in GATHERED:
        return f"sums the outputs of {', '.join(map(str, GATHERED))} experts, not of {top_k}"
    if hidden % STEP or inner % STEP:
        return f"wants multiples of {STEP}, not {hidden} and {inner}"
    if activation not in ("silu", "gelu"):
        return f"has the activations silu and gelu, not {activation}"
    return None


def columns_first(weight: Tensor) -> Tensor:
    """(E, K, N), contiguous, of weights (E, N, K).

    The first time the weights' memory is laid out that way, once and for all: the tensor keeps its
    shape and its values.
    """
    turned = weight.transpose(1, 2)
    if not turned.is_contiguous():
        held: Any = weight  # torch's stubs do not know `set_` of a tensor alone
        held.set_(turned.contiguous().transpose(1, 2))
        turned = weight.transpose(1, 2)
    return turned


def _rms_norm(norm: Callable[..., Any]) -> Callable[..., Any]:
    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if x.numel():
            norm(result=out, input=x, weight=weight, epsilon=eps)
        return out

    return rms_norm


def _add_rms_norm(norm: Callable[..., Any]) -> Callable[..., Any]:
    def add_rms_norm(
        x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        normed, total = torch.stack((x, residual)).unbind()  # it writes into what it is given
        if x.numel():
            norm(input=normed, residual=total, weight=weight, epsilon=eps)
        return normed, total

    return add_rms_norm


def _silu_mul(activate: Callable[..., Any]) -> Callable[..., Any]:
    def silu_mul(x: Tensor) -> Tensor:
        return _gated(partial(activate, input=x.contiguous()), x, "result")

    return silu_mul


def _gelu_mul(activate: Callable[..., Any]) -> Callable[..., Any]:
    def gelu_mul(x: Tensor) -> Tensor:
        return _gated(partial(activate, input=x.contiguous()), x, "out")

    return gelu_mul


def _gated(activate: Callable[..., Any], x: Tensor, name: str) -> Tensor:
    """(…, n) of ``x`` (…, 2 n)."""
    out = torch.empty((*x.shape[:-1], x.shape[-1] // 2), dtype=x.dtype, device=x.device)
    if out.numel():
        activate(**{name: out})
    return out


def _moe_route(choose: Callable[..., Any]) -> Callable[..., Any]:
    def moe_route(
        logits: Tensor,
        top_k: int,
        renormalize: bool,
        scoring: str = "softmax",
        bias: Tensor | None = None,
        num_groups: int = 1,
        top_groups: int = 1,
        group_top: int = 1,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        if bias is not None or top_groups < num_groups:
            rest = (bias, num_groups, top_groups, group_top, scale)
            return plain_route(logits, top_k, renormalize, scoring, *rest)
        shape, device = (len(logits), top_k), logits.device
        weights = torch.empty(shape, dtype=torch.float32, device=device)
        experts, rows = torch.empty((2, *shape), dtype=torch.int32, device=device).unbind()
        if len(logits):
            choose(
                topk_weights=weights,
                topk_indices=experts,
                token_expert_indices=rows,
                gating_output=logits.contiguous(),
                renormalize=renormalize,
                bias=None,
                is_padding=None,
            )
        return weights if scale == 1.0 else weights * scale, experts.long()

    return moe_route


def _moe_experts(
    remap: Callable[..., Any],
    gemm: Callable[..., Any],
    gather: Callable[..., Any],
    silu: Callable[..., Any],
    gelu: Callable[..., Any],
) -> Callable[..., Any]:
    activations = {"silu": _silu_mul(silu), "gelu": _gelu_mul(gelu)}

    def product(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
        """Rows sorted by expert, ``rows[e]`` of each, times its weight (E, N, K)."""
        num_experts, size, depth = weight.shape
        out = torch.empty((len(x), size), dtype=x.dtype, device=x.device)
        gemm(
            ptr_A=x,
            ptr_A_scale=None,
            ptr_B=columns_first(weight),
            ptr_B_scale=None,
            ptr_bias=bias,
            ptr_D=out,
            rows_per_expert=rows,
            N=size,
            K=depth,
            num_experts=num_experts,
        )
        return out

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
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if not len(x):
            return out
        num_experts, pairs = len(gate_up), experts.numel()
        sorted_x = torch.empty((pairs, x.shape[1]), dtype=x.dtype, device=x.device)
        rows = torch.zeros(num_experts, dtype=torch.int32, device=x.device)
        places = torch.empty(experts.shape, dtype=torch.int32, device=x.device)
        remap(
            hidden_states=x.contiguous(),
            hidden_states_scales=None,
            remapped_hidden_states=sorted_x,
            remapped_hidden_states_scales=None,
            expert_map=None,
            rows_per_expert=rows,
            unpermuted_row_to_permuted_row=places,
            topk_ids=experts.contiguous(),
            total_experts_num=num_experts,
            local_experts_num=num_experts,
        )
        hidden = activations[activation](product(sorted_x, gate_up, gate_up_bias, rows))
        gather(
            output=out,
            moe_output=product(hidden, down, down_bias, rows),
            topk_weights=weights.contiguous(),
            unpermuted_row_to_permuted_row=places,
            num_experts=num_experts,
        )
        return out

    return moe_experts


_MAKERS: dict[str, tuple[tuple[str, ...], Callable[..., Callable[..., Any]]]] = {
    "rms_norm": (("rms_norm",), _rms_norm),
    "add_rms_norm": (("fused_add_rms_norm",), _add_rms_norm),
    "silu_mul": (("silu_and_mul",), _silu_mul),
    "gelu_mul": (("gelu_tanh_and_mul",), _gelu_mul),
    "moe_route": (("topk_softmax",), _moe_route),
    "moe_experts": (
        (
            *("remap_hidden_states", "cutlass_grouped_gemm_interface", "moe_gather"),
            *("silu_and_mul", "gelu_tanh_and_mul"),
        ),
        _moe_experts,
    ),
}
