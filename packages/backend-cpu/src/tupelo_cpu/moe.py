"""Mixture of experts, a token at a time: its bits do not depend on the other tokens of the batch.

A token costs its own experts only, which in decoding is far less than the reference's every expert.
"""

import torch
from torch import Tensor

from tupelo.ops.activation import ACTIVATIONS


def moe_experts(
    x: Tensor, weights: Tensor, experts: Tensor, activation: str, gate_up: Tensor, down: Tensor
) -> Tensor:
    """As ``tupelo.ops.moe.moe_experts``."""
    act = ACTIVATIONS[activation]
    out = torch.zeros_like(x)
    for token, chosen in enumerate(experts.tolist()):
        for weight, expert in zip(weights[token], chosen, strict=True):
            inner = act((gate_up[expert] @ x[token]).unsqueeze(0))
            out[token] += (down[expert] @ inner[0]) * weight
    return out
