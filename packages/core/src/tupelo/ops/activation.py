"""Gated activations: the first half of the last axis, activated, times the second half.

Source: Shazeer, "GLU Variants Improve Transformer", 2020.
"""

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
