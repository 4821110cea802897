"""The coarse ops, composed of Triton kernels and cuBLAS products.

Signatures and results are those of the ops of the same name in ``tupelo.ops.linear``.
"""

import torch.nn.functional as F
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.activation import ACTIVATIONS
from tupelo.triton.norm import add_rms_norm, rms_norm


def add_norm_linear(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weight: LinearWeight
) -> tuple[Tensor, Tensor]:
    """As ``tupelo.ops.linear.add_norm_linear``."""
    if residual is None:
        return F.linear(rms_norm(x, norm_weight, eps), weight.weight, weight.bias), x
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return F.linear(normed, weight.weight, weight.bias), total


def gated_mlp(x: Tensor, activation: str, gate_up: LinearWeight, down: LinearWeight) -> Tensor:
    """As ``tupelo.ops.linear.gated_mlp``."""
    both = F.linear(x, gate_up.weight, gate_up.bias)
    return F.linear(ACTIVATIONS[activation](both), down.weight, down.bias)
