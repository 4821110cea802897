"""Mixture of experts: choosing experts for each token, and running them.

Source: Shazeer et al., "Outrageously Large Neural Networks", 2017; choice by group and with a
    correction bias: DeepSeek-AI, "DeepSeek-V2" and "DeepSeek-V3 Technical Report", 2024; the
        clamped
    gate: OpenAI, "gpt-oss model card", 2025.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tupelo.ops.activation import ACTIVATIONS

CLAMP = 7.0
"""Largest gate, and size of the other factor, of ``"swiglu_clamped"``."""

SHARPNESS = 1.702
"""Of the sigmoid in ``"swiglu_clamped"``: it approximates gelu."""


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
    """The ``top_k`` experts of each token.

    Args:
        logits: (num_tokens, num_experts).
        top_k: experts a token.
        renormalize: whether the chosen scores are scaled to sum to 1.
        scoring: ``"softmax"`` over all experts, or ``"sigmoid"`` of each.
        bias: (num_experts,) float32, added for the choice alone; None for none.
        num_groups: experts come in groups of equal size, of which the best ``top_groups`` are open.
            A group is as good as the sum of its ``group_top`` best experts.
        scale: factor on the weights.

    Returns:
        weights (num_tokens, top_k) float32 and expert ids (num_tokens, top_k) int64.
    """
    scores, experts = choose_experts(
        logits, top_k, scoring, bias, num_groups, top_groups, group_top
    )
    weights = scores.gather(-1, experts)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * scale, experts


def choose_experts(
    logits: Tensor,
    top_k: int,
    scoring: str,
    bias: Tensor | None,
    num_groups: int,
    top_groups: int,
    group_top: int,
) -> tuple[Tensor, Tensor]:
    """The first half of ``moe_route``, with its arguments.

    Returns:
        scores (num_tokens, num_experts) float32 and expert ids (num_tokens, top_k) int64.
    """
    wide = logits.float()
    scores = torch.softmax(wide, dim=-1) if scoring == "softmax" else torch.sigmoid(wide)
    choice = scores if bias is None else scores + bias
    if top_groups < num_groups:
        groups = choice.view(*choice.shape[:-1], num_groups, choice.shape[-1] // num_groups)
        best = groups.topk(group_top, dim=-1).values.sum(-1).topk(top_groups, dim=-1).indices
        every = torch.arange(num_groups, device=best.device)
        is_open = (best.unsqueeze(-1) == every).any(-2)
        choice = groups.masked_fill(~is_open.unsqueeze(-1), float("-inf")).flatten(-2)
    return scores, choice.topk(top_k, dim=-1).indices


def swiglu_clamped(x: Tensor) -> Tensor:
    """``gate * sigmoid(1.702 gate) * (up + 1)``, gate at most 7 and up within 7 of 0; (num_tokens,
    2 * n) to (num_tokens, n)."""
    gate, up = x.chunk(2, dim=-1)
    gate, up = gate.clamp(max=CLAMP), up.clamp(-CLAMP, CLAMP)
    return gate * torch.sigmoid(SHARPNESS * gate) * (up + 1)


EXPERT_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **ACTIVATIONS,
    "swiglu_clamped": swiglu_clamped,
}
"""By the name that ``moe_experts`` takes."""


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
    """``sum_k weights[t, k] * mlp_{experts[t, k]}(x[t])``.

    Args:
        x: (num_tokens, hidden_size).
        weights, experts: (num_tokens, top_k), from ``moe_route``.
        activation: a name of ``EXPERT_ACTIVATIONS``.
        gate_up: (num_experts, 2 * intermediate_size, hidden_size).
        down: (num_experts, hidden_size, intermediate_size).
        gate_up_bias: (num_experts, 2 * intermediate_size). down_bias: (num_experts, hidden_size).

    Returns:
        (num_tokens, hidden_size), dtype of ``x``.
    """
    act = EXPERT_ACTIVATIONS[activation]
    out = torch.zeros_like(x, dtype=torch.float32)
    for expert in range(gate_up.shape[0]):
        share = torch.where(experts == expert, weights, torch.zeros_like(weights)).sum(-1)
        inner = x @ gate_up[expert].T
        y = act(inner if gate_up_bias is None else inner + gate_up_bias[expert]) @ down[expert].T
        y = y if down_bias is None else y + down_bias[expert]
        out = out + y.float() * share.unsqueeze(-1)
    return out.to(x.dtype)
