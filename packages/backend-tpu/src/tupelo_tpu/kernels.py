"""Ops that XLA wants written another way than the reference, as records of the contract.

XLA fuses what torch calls one after another, so most references are as good as kernels here. These
are not. A loop over experts is a program as long as there are experts, and a gather of single
numbers is slow on a TPU. And torch-xla differs from torch in what the references stand on: it
computes gelu of 16-bit numbers in 16 bits, it sorts -0.0 before 0.0, and it gathers nothing from a
tensor without rows.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.backend import Kernel, Tier
from tupelo.ops import LinearWeight
from tupelo.ops.activation import ACTIVATIONS
from tupelo.ops.moe import EXPERT_ACTIVATIONS, choose_experts
from tupelo.ops.sampling import drawn_place


def gelu_mul(x: Tensor) -> Tensor:
    """See ``tupelo.ops.activation.gelu_mul``; in float32."""
    gate, up = x.float().chunk(2, dim=-1)
    return (F.gelu(gate, approximate="tanh") * up).to(x.dtype)


def gated_mlp(x: Tensor, activation: str, gate_up: LinearWeight, down: LinearWeight) -> Tensor:
    """See ``tupelo.ops.linear.gated_mlp``; the activation in float32."""
    inner = F.linear(x, gate_up.weight, gate_up.bias)
    acted = ACTIVATIONS[activation](inner.float()).to(x.dtype)
    return F.linear(acted, down.weight, down.bias)


def sample_top_k_top_p(
    logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """See ``tupelo.ops.sampling.sample_top_k_top_p``."""
    level = torch.where(logits == 0, torch.zeros_like(logits), logits)  # one zero
    ordered, ids = torch.sort(level, dim=-1, descending=True, stable=True)
    place = drawn_place(ordered, top_k, top_p, min_p, uniform)
    rank = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0)
    return torch.where(rank == place, ids, torch.zeros_like(ids)).sum(-1)


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
    """See ``tupelo.ops.moe.moe_route``; scores are picked by products with ones and zeros."""
    scores, experts = choose_experts(
        logits, top_k, scoring, bias, num_groups, top_groups, group_top
    )
    picked = F.one_hot(experts, scores.shape[1]).to(scores.dtype)
    weights = (picked * scores.unsqueeze(1)).sum(-1)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * scale, experts


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
    """See ``tupelo.ops.moe.moe_experts``; all experts as one batched product."""
    picked = F.one_hot(experts, len(gate_up)).to(weights.dtype)
    share = (picked * weights.unsqueeze(-1)).sum(1)  # (num_tokens, num_experts)
    inner = torch.einsum("th,enh->etn", x, gate_up)
    if gate_up_bias is not None:
        inner = inner + gate_up_bias.unsqueeze(1)
    y = torch.einsum("etn,ehn->eth", EXPERT_ACTIVATIONS[activation](inner), down)
    if down_bias is not None:
        y = y + down_bias.unsqueeze(1)
    return torch.einsum("eth,te->th", y.float(), share).to(x.dtype)


_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    gelu_mul,
    gated_mlp,
    sample_top_k_top_p,
    moe_route,
    moe_experts,
)

KERNELS = tuple(
    Kernel(op=fn.__name__, name=f"xla_{fn.__name__}", fn=fn, tier=Tier.PORTABLE)
    for fn in _FUNCTIONS
)
