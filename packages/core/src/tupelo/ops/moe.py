"""Mixture of experts: routing, and the experts' gated products.

Source: Fedus et al., "Switch Transformers", 2021; renormalisation as in Mixtral (Jiang et al.,
    2024).
"""

import torch
from torch import Tensor

from tupelo.ops.activation import ACTIVATIONS


def moe_route(logits: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    """The ``top_k`` experts of each token by softmax probability.

    Args:
        logits: (num_tokens, num_experts).
        top_k: experts a token.
        renormalize: whether the chosen probabilities are scaled to sum to 1.

    Returns:
        weights (num_tokens, top_k) float32 and expert ids (num_tokens, top_k) int64.
    """
    probs = torch.softmax(logits.float(), dim=-1)
    weights, experts = probs.topk(top_k, dim=-1)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts


def moe_experts(
    x: Tensor, weights: Tensor, experts: Tensor, activation: str, gate_up: Tensor, down: Tensor
) -> Tensor:
    """``sum_k weights[t, k] * mlp_{experts[t, k]}(x[t])``.

    Args:
        x: (num_tokens, hidden_size).
        weights, experts: (num_tokens, top_k), from ``moe_route``.
        activation: as in ``gated_mlp``.
        gate_up: (num_experts, 2 * intermediate_size, hidden_size).
        down: (num_experts, hidden_size, intermediate_size).

    Returns:
        (num_tokens, hidden_size), dtype of ``x``.
    """
    act = ACTIVATIONS[activation]
    out = torch.zeros_like(x, dtype=torch.float32)
    for expert in range(gate_up.shape[0]):
        share = torch.where(experts == expert, weights, torch.zeros_like(weights)).sum(-1)
        y = act(x @ gate_up[expert].T) @ down[expert].T
        out = out + y.float() * share.unsqueeze(-1)
    return out.to(x.dtype)
