# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""Scalar functions that several kernels use, in float32, and sizes that their launchers share.

Written with ``exp`` alone: it exists on every target, and under the interpreter.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Hyperbolic tangent; the error is absolute, about 1e-7. Nothing overflows."""
    shrunk = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - shrunk) / (1.0 + shrunk)
    return tl.where(x < 0.0, -size, size)


@triton.jit
def silu(x):
    """``x * sigmoid(x)``. Nothing overflows."""
    shrunk = tl.exp(-tl.abs(x))
    return x * tl.where(x < 0.0, shrunk, 1.0) / (1.0 + shrunk)


@triton.jit
def gelu(x):
    """The tanh approximation of gelu. Source: Hendrycks and Gimpel, 2016."""
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * x * (1.0 + 0.044715 * x * x)))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """``silu`` or ``gelu`` by name."""
    if ACTIVATION == "silu":
        return silu(x)
    else:
        return gelu(x)


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n``; 1 for 0."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(n: int, size: int) -> int:
    """``n / size``, rounded up."""
    return -(-n // size)
