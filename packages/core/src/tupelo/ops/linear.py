"""Products with weights, and the fused forms that models call."""

import torch.nn.functional as F
from torch import Tensor

from tupelo.ops.activation import ACTIVATIONS, MLP_ACTIVATIONS
from tupelo.ops.norm import add_rms_norm, rms_norm
from tupelo.ops.weight import LinearWeight


def linear(x: Tensor, weight: LinearWeight) -> Tensor:
    """``x @ weight.T + bias``.

    Args:
        x: (num_tokens, in_features).
        weight: plain, of the dtype of ``x``.

    Returns:
        (num_tokens, out_features), dtype of ``x``.
    """
    return F.linear(x, weight.weight, weight.bias)


def add_norm_linear(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weight: LinearWeight
) -> tuple[Tensor, Tensor]:
    """Residual addition, norm and product: ``r = x + residual``; ``(linear(rms_norm(r)), r)``.

    Args:
        x: (num_tokens, hidden_size).
        residual: same shape, or None: then ``r = x``.
        norm_weight: (hidden_size,). eps: as in ``rms_norm``.
        weight: (out_features, hidden_size).

    Returns:
        (num_tokens, out_features) and the new residual (num_tokens, hidden_size).
    """
    if residual is None:
        return linear(rms_norm(x, norm_weight, eps), weight), x
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return linear(normed, weight), total


def gated_mlp(x: Tensor, activation: str, gate_up: LinearWeight, down: LinearWeight) -> Tensor:
    """``linear(act_mul(linear(x, gate_up)), down)``.

    Args:
        x: (num_tokens, hidden_size).
        activation: ``"silu"`` or ``"gelu"`` (tanh approximation).
        gate_up: (2 * intermediate_size, hidden_size), gate rows first.
        down: (hidden_size, intermediate_size).

    Returns:
        (num_tokens, hidden_size).
    """
    return linear(ACTIVATIONS[activation](linear(x, gate_up)), down)


def mlp(x: Tensor, activation: str, up: LinearWeight, down: LinearWeight) -> Tensor:
    """``linear(act(linear(x, up)), down)``.

    Args:
        x: (num_tokens, hidden_size).
        activation: a name of ``MLP_ACTIVATIONS``.
        up: (intermediate_size, hidden_size), twice as many rows for an activation that multiplies.
        down: (hidden_size, intermediate_size).

    Returns:
        (num_tokens, hidden_size).
    """
    return linear(MLP_ACTIVATIONS[activation](linear(x, up)), down)
