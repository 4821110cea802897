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
def gelu_erf(x):
    """``x * Phi(x)``, where Phi is the normal distribution's; the error is below 1e-7 of ``x``.

    Source: Abramowitz and Stegun, 1964, formula 7.1.26, of the complement: tails do not cancel.
    """
    size = tl.abs(x) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * size)
    series = t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))
    tail = 0.5 * tl.exp(-size * size) * t * (0.254829592 + t * (-0.284496736 + series))
    return x * tl.where(x < 0.0, tail, 1.0 - tail)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """``silu``, ``gelu``, ``gelu_erf`` or ``relu`` by name."""
    if ACTIVATION == "silu":
        return silu(x)
    elif ACTIVATION == "gelu_erf":
        return gelu_erf(x)
    elif ACTIVATION == "relu":
        return tl.where(x < 0.0, 0.0, x)
    else:
        return gelu(x)


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n``; 1 for 0."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(n: int, size: int) -> int:
    """``n / size``, rounded up."""
    return -(-n // size)
