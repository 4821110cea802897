"""Activations: gated ones, where the first half of the last axis, activated, multiplies the second
half, and plain ones.

Source: Shazeer, "GLU Variants Improve Transformer", 2020; Hendrycks and Gimpel, "Gaussian Error
Linear Units", 2016.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def silu_mul(x: Tensor) -> Tensor:
    """``silu(x[:, :n]) * x[:, n:]``.

    Args:
        x: (num_tokens, 2 * n).

    Returns:
        (num_tokens, n), same dtype.
    """
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def gelu_mul(x: Tensor) -> Tensor:
    """``gelu(x[:, :n]) * x[:, n:]`` with the tanh approximation of gelu.

    Args:
        x: (num_tokens, 2 * n).

    Returns:
        (num_tokens, n), same dtype.
    """
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


ACTIVATIONS = {"silu": silu_mul, "gelu": gelu_mul}
"""By the name that ``gated_mlp`` takes."""


def gelu_erf_mul(x: Tensor) -> Tensor:
    """``gelu(x[:, :n]) * x[:, n:]`` with the exact gelu; (num_tokens, 2 * n) to (num_tokens, n)."""
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate) * up


MLP_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_erf": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": torch.relu,
    "gelu_erf_mul": gelu_erf_mul,
}
"""By the name that ``mlp`` takes; one that ends in ``_mul`` halves the last axis."""
