"""Ops of core by CANN's fused kernels: what a model calls, made of ``calls``.

Products are torch's own, which torch-npu hands to CANN. No argument is changed, and every size is
one that the host knows, so that a step can be captured.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.ops import OPS, LinearWeight
from tupelo.ops.activation import MLP_ACTIVATIONS
from tupelo.ops.collective import AllReduce
from tupelo.ops.moe import EXPERT_ACTIVATIONS
from tupelo_npu import calls


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As the op; a weight of another type than ``x`` is applied in float32."""
    if not x.numel():
        return torch.empty_like(x)
    if weight.dtype == x.dtype:
        return calls.rms_norm(x.contiguous(), weight, eps)
    return calls.rms_norm(x.float().contiguous(), weight.float(), eps).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As the op."""
    if not x.numel():
        return torch.empty_like(x), torch.empty_like(x)
    if weight.dtype != x.dtype:
        total = x + residual
        return rms_norm(total, weight, eps), total
    return calls.add_rms_norm(x.contiguous(), residual.contiguous(), weight, eps)


def all_reduce_add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, group: AllReduce
) -> tuple[Tensor, Tensor]:
    """As the op."""
    return add_rms_norm(group.all_reduce(x), residual, weight, eps)


def rope(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """As the op. It turns in float32: angles rounded to 16 bits would cost more than the op's
    tolerance where sums cancel."""
    if not x.numel():
        return torch.empty_like(x)
    turned = _turn(x, positions, cos_sin).to(x.dtype)
    rest = x[..., cos_sin.shape[-1] :]
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def norm_rope_qkv(
    qkv: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the op; q and k turn in one launch."""
    heads = qkv.view(len(qkv), num_heads + 2 * num_kv_heads, head_dim)
    both, v = heads[:, : num_heads + num_kv_heads], heads[:, num_heads + num_kv_heads :]
    if q_norm is not None or k_norm is not None:
        q, k = both[:, :num_heads], both[:, num_heads:]
        q = q if q_norm is None else rms_norm(q, q_norm, eps)
        k = k if k_norm is None else rms_norm(k, k_norm, eps)
        both = torch.cat((q, k), dim=1)
    both = rope(both, positions, cos_sin)
    return both[:, :num_heads], both[:, num_heads:], v


def _turn(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """The rotated elements of ``x`` (num_tokens, num_heads, head_dim), float32."""
    width = cos_sin.shape[-1]
    angles = cos_sin[positions].view(-1, 2, 1, width // 2).transpose(0, 1)
    cos, sin = angles.expand(2, -1, 2, -1).reshape(2, 1, -1, 1, width)
    wide = x[..., :width].float().contiguous()
    return calls.rotary_mul(wide.unsqueeze(0), cos, sin).squeeze(0)


def silu_mul(x: Tensor) -> Tensor:
    """As the op."""
    return calls.swiglu(x.contiguous()) if x.numel() else x.chunk(2, dim=-1)[0].clone()


def gelu_mul(x: Tensor) -> Tensor:
    """As the op."""
    return calls.geglu(x.contiguous()) if x.numel() else x.chunk(2, dim=-1)[0].clone()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **EXPERT_ACTIVATIONS,
    "silu": silu_mul,
    "gelu": gelu_mul,
}
"""By the name that ``gated_mlp`` and ``moe_experts`` take."""


def embedding(ids: Tensor, table: Tensor, scale: float) -> Tensor:
    """As the op; the scale is made on the device, since a capture copies nothing from the host."""
    rows = F.embedding(ids, table)
    if scale == 1.0:
        return rows
    return rows * torch.full((), scale, dtype=rows.dtype, device=rows.device)


def linear(x: Tensor, weight: LinearWeight) -> Tensor:
    """As the op."""
    return F.linear(x, weight.weight, weight.bias)


def add_norm_linear(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weight: LinearWeight
) -> tuple[Tensor, Tensor]:
    """As the op."""
    if residual is None:
        return linear(rms_norm(x, norm_weight, eps), weight), x
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return linear(normed, weight), total


def gated_mlp(x: Tensor, activation: str, gate_up: LinearWeight, down: LinearWeight) -> Tensor:
    """As the op."""
    return linear(ACTIVATIONS[activation](linear(x, gate_up)), down)


def mlp(x: Tensor, activation: str, up: LinearWeight, down: LinearWeight) -> Tensor:
    """As the op; products on the matrix units, where core's kernels in Triton would not be."""
    return linear(MLP_ACTIVATIONS[activation](linear(x, up)), down)


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
    """As the op. CANN chooses the experts; with sigmoids or groups their weights are torch's, since
    releases differ in whether they are scaled to sum to 1."""
    if not len(logits):
        none = logits.new_empty((0, top_k), dtype=torch.float32)
        return none, none.long()
    is_plain = scoring == "softmax" and bias is None and top_groups >= num_groups
    if not (is_plain or _can_gate(logits, num_groups, group_top)):
        how = (scoring, bias, num_groups, top_groups, group_top, scale)
        weights, experts = OPS["moe_route"].reference(logits, top_k, renormalize, *how)
        return weights, experts
    wide = logits.float().contiguous()
    if is_plain:
        weights, ids = calls.gate_softmax(wide, top_k)
        experts = ids.long()
    else:
        groups = (num_groups, top_groups) if top_groups < num_groups else (1, 1)
        sigmoid = scoring == "sigmoid"
        corrected = None if bias is None else bias.float()
        experts = calls.gate(wide, top_k, corrected, *groups, group_top == 2, sigmoid).long()
        scores = torch.sigmoid(wide) if sigmoid else torch.softmax(wide, dim=-1)
        weights = scores.gather(-1, experts)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * scale, experts


def _can_gate(logits: Tensor, num_groups: int, group_top: int) -> bool:
    """Whether CANN's choice among groups has these sizes: groups of more than two experts, at most
    2,048 of them where each group is filled up to a multiple of 32."""
    size, rest = divmod(logits.shape[-1], num_groups)
    return not rest and size > 2 and group_top <= 2 and -(-size // 32) * 32 * num_groups <= 2048


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
    """As the op: tokens sorted by expert, two grouped products, and the weighted sum back in the
    tokens' order."""
    if not x.numel():
        return torch.empty_like(x)
    ids = experts.int()
    rows, places, counts = calls.init_routing(x.contiguous(), ids, gate_up.shape[0])
    inner = calls.grouped_matmul(rows, gate_up.transpose(1, 2), counts)
    if gate_up_bias is not None:
        owners = torch.empty_like(ids.flatten()).index_copy_(0, places.long(), ids.flatten())
        inner = inner + gate_up_bias[owners.long()]
    outer = calls.grouped_matmul(ACTIVATIONS[activation](inner), down.transpose(1, 2), counts)
    by_choice = places.view_as(ids).t().flatten()
    return calls.finalize_routing(outer, weights.to(x.dtype), by_choice, ids, down_bias)
