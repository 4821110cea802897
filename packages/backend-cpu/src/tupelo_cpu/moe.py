"""Mixture of experts, a token at a time: its bits do not depend on the other tokens of the batch.

A token costs its own experts only, which in decoding is far less than the reference's every expert.
"""

import torch
from torch import Tensor

from tupelo.ops.moe import EXPERT_ACTIVATIONS


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
    act = EXPERT_ACTIVATIONS[activation]
    out = torch.zeros_like(x)
    for token, chosen in enumerate(experts.tolist()):
        for weight, expert in zip(weights[token], chosen, strict=True):
            inner = gate_up[expert] @ x[token]
            if gate_up_bias is not None:
                inner = inner + gate_up_bias[expert]
            y = down[expert] @ act(inner.unsqueeze(0))[0]
            out[token] += (y if down_bias is None else y + down_bias[expert]) * weight
    return out
