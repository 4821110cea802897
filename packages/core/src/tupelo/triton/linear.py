"""Products with weights. Ops: ``linear`` up to ``MAX_ROWS`` rows; ``add_norm_linear``,
``gated_mlp`` and ``mlp`` for any number: above it the product itself is torch's.

A backend that has timed the candidates calls ``run_linear`` and its like with the one that won.
"""

import torch.nn.functional as F
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.activation import ACTIVATIONS, MLP_ACTIVATIONS
from tupelo.triton.gemv import add_norm_gemv, gemv
from tupelo.triton.linear_config import MAX_ROWS, LinearConfig, configs
from tupelo.triton.norm import add_rms_norm, rms_norm
from tupelo.triton.small_linear import small_linear


def run_linear(
    x: Tensor, weight: LinearWeight, config: LinearConfig, activation: str = ""
) -> Tensor:
    """``linear``, or with an activation ``act_mul(linear(x, weight))``, launched as told.

    Args:
        x: (num_tokens, in_features), up to ``MAX_ROWS`` tokens.
        config: one of ``configs`` for this number of rows: one row is another kernel than more.
    """
    if x.shape[0] == 1:
        return gemv(x, weight, config, activation)
    return small_linear(x, weight, config, activation)


def linear(x: Tensor, weight: LinearWeight) -> Tensor:
    """As ``tupelo.ops.linear.linear``, for up to ``MAX_ROWS`` rows."""
    return run_linear(x, weight, default_config(x, weight))


def add_norm_linear(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weight: LinearWeight
) -> tuple[Tensor, Tensor]:
    """As ``tupelo.ops.linear.add_norm_linear``: one launch for one row."""
    if x.shape[0] == 1:
        config = default_config(x, weight)
        return add_norm_gemv(x, residual, norm_weight, eps, weight, config)
    if residual is None:
        return _product(rms_norm(x, norm_weight, eps), weight), x
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return _product(normed, weight), total


def gated_mlp(x: Tensor, activation: str, gate_up: LinearWeight, down: LinearWeight) -> Tensor:
    """As ``tupelo.ops.linear.gated_mlp``: two launches for few rows."""
    if x.shape[0] > MAX_ROWS:
        wide = F.linear(x, gate_up.weight, gate_up.bias)
        return F.linear(ACTIVATIONS[activation](wide), down.weight, down.bias)
    hidden = run_linear(x, gate_up, default_config(x, gate_up, gated=True), activation)
    return linear(hidden, down)


def mlp(x: Tensor, activation: str, up: LinearWeight, down: LinearWeight) -> Tensor:
    """As ``tupelo.ops.linear.mlp``."""
    return _product(MLP_ACTIVATIONS[activation](_product(x, up)), down)


def default_config(x: Tensor, weight: LinearWeight, *, gated: bool = False) -> LinearConfig:
    """The best guess among ``configs`` for an input; nothing is measured."""
    shape, rows = (weight.out_features, weight.in_features), max(1, x.shape[0])
    return configs(shape, rows, itemsize=x.element_size(), gated=gated)[0]


def _product(x: Tensor, weight: LinearWeight) -> Tensor:
    if x.shape[0] > MAX_ROWS:
        return F.linear(x, weight.weight, weight.bias)
    return linear(x, weight)
