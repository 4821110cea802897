"""Every op by its formula, in float64 numpy, row by row: the references are judged by these."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.ops.samples_sampling import filtered
from tupelo.ops.sampling import NEGATIVE

Array = npt.NDArray[Any]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """``x / sqrt(mean(x^2) + eps) * weight``."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def add_rms_norm(x: Array, residual: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """The sum, normed, and the sum."""
    return rms_norm(x + residual, weight, eps), x + residual


def all_reduce_add_norm(
    x: Array, residual: Array, weight: Array, eps: float, group: object
) -> tuple[Array, Array]:
    """Over one rank."""
    return add_rms_norm(x, residual, weight, eps)


def layer_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    """Centred, divided by the standard deviation, scaled and shifted."""
    centred = x - x.mean(-1, keepdims=True)
    out = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight
    return out if bias is None else out + bias


def add_layer_norm(
    x: Array, residual: Array, weight: Array, bias: Array | None, eps: float
) -> tuple[Array, Array]:
    """The sum, normed, and the sum."""
    return layer_norm(x + residual, weight, bias, eps), x + residual


def rope(x: Array, positions: Array, cos_sin: Array) -> Array:
    """Pairs (i, i + d/2) as complex numbers, turned."""
    out, half = x.copy(), cos_sin.shape[1] // 2
    for token, position in enumerate(positions):
        turn = cos_sin[position, :half] + 1j * cos_sin[position, half:]
        pairs = (x[token, :, :half] + 1j * x[token, :, half : 2 * half]) * turn
        out[token, :, :half], out[token, :, half : 2 * half] = pairs.real, pairs.imag
    return out


def norm_rope_qkv(
    qkv: Array,
    positions: Array,
    cos_sin: Array,
    q_norm: Array | None,
    k_norm: Array | None,
    eps: float,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> tuple[Array, Array, Array]:
    """Columns of q, of k, of v, in this order."""
    q_end, k_end = num_heads * head_dim, (num_heads + num_kv_heads) * head_dim
    q = qkv[:, :q_end].reshape(-1, num_heads, head_dim)
    k = qkv[:, q_end:k_end].reshape(-1, num_kv_heads, head_dim)
    v = qkv[:, k_end:].reshape(-1, num_kv_heads, head_dim)
    q = q if q_norm is None else rms_norm(q, q_norm, eps)
    k = k if k_norm is None else rms_norm(k, k_norm, eps)
    return rope(q, positions, cos_sin), rope(k, positions, cos_sin), v


def silu(x: Array) -> Array:
    """``x / (1 + exp(-x))``."""
    return x / (1 + np.exp(np.minimum(-x, 700)))


def gelu(x: Array) -> Array:
    """The tanh approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu_mul(x: Array) -> Array:
    """First half activated, times the second."""
    half = x.shape[1] // 2
    return silu(x[:, :half]) * x[:, half:]


def gelu_mul(x: Array) -> Array:
    """First half activated, times the second."""
    half = x.shape[1] // 2
    return gelu(x[:, :half]) * x[:, half:]


def linear(x: Array, weight: LinearWeight) -> Array:
    """Each output a sum over the inputs."""
    product = np.einsum("ti,oi->to", x, weight.weight.double().numpy())
    return product if weight.bias is None else product + weight.bias.double().numpy()


def add_norm_linear(
    x: Array, residual: Array | None, norm_weight: Array, eps: float, weight: LinearWeight
) -> tuple[Array, Array]:
    """Sum, norm, product."""
    total = x if residual is None else x + residual
    return linear(rms_norm(total, norm_weight, eps), weight), total


def gated_mlp(x: Array, activation: str, gate_up: LinearWeight, down: LinearWeight) -> Array:
    """Product, gate, product."""
    gate = {"silu": silu_mul, "gelu": gelu_mul}[activation]
    return linear(gate(linear(x, gate_up)), down)


def gelu_erf(x: Array) -> Array:
    """``x`` times the normal distribution's share below it."""
    return x * 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2))


def mlp(x: Array, activation: str, up: LinearWeight, down: LinearWeight) -> Array:
    """Product, activation, product."""
    wide, half = linear(x, up), up.out_features // 2
    inner = {
        "gelu_erf": lambda: gelu_erf(wide),
        "gelu_tanh": lambda: gelu(wide),
        "relu": lambda: np.maximum(wide, 0),
        "gelu_erf_mul": lambda: gelu_erf(wide[:, :half]) * wide[:, half:],
    }[activation]()
    return linear(inner, down)


def moe_route(
    logits: Array,
    top_k: int,
    renormalize: bool,
    scoring: str = "softmax",
    bias: Array | None = None,
    num_groups: int = 1,
    top_groups: int = 1,
    group_top: int = 1,
    scale: float = 1.0,
) -> tuple[Array, Array]:
    """Sorted scores, token by token and group by group."""
    probs = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    probs /= probs.sum(-1, keepdims=True)
    if scoring == "sigmoid":
        probs = 1 / (1 + np.exp(-logits))
    experts = np.empty((len(logits), top_k), np.int64)
    size = logits.shape[1] // num_groups
    for token, row in enumerate(probs if bias is None else probs + bias):
        worth = [np.sort(g)[::-1][:group_top].sum() for g in row.reshape(num_groups, size)]
        open_groups = np.argsort(worth)[::-1][:top_groups]
        ids = [e for e in np.argsort(-row, kind="stable") if e // size in open_groups]
        experts[token] = ids[:top_k]
    weights = np.take_along_axis(probs, experts, -1)
    weights = weights / weights.sum(-1, keepdims=True) if renormalize else weights
    return weights * scale, experts


def _clamped(x: Array) -> Array:
    gate, up = np.split(x, 2, -1)
    gate = np.minimum(gate, 7.0)
    return gate / (1 + np.exp(-1.702 * gate)) * (np.clip(up, -7.0, 7.0) + 1)


def moe_experts(
    x: Array,
    weights: Array,
    experts: Array,
    activation: str,
    gate_up: Array,
    down: Array,
    gate_up_bias: Array | None = None,
    down_bias: Array | None = None,
) -> Array:
    """Token by token, expert by expert."""
    gate = {"silu": silu_mul, "gelu": gelu_mul, "swiglu_clamped": _clamped}[activation]
    out = np.zeros_like(x)
    for token in range(len(x)):
        for weight, expert in zip(weights[token], experts[token], strict=True):
            inner = x[token : token + 1] @ gate_up[expert].T
            inner = gate(inner if gate_up_bias is None else inner + gate_up_bias[expert])
            y = (inner @ down[expert].T)[0]
            out[token] += weight * (y if down_bias is None else y + down_bias[expert])
    return out


def embedding(ids: Array, table: Array, scale: float) -> Array:
    """Rows, scaled in float32."""
    return table[ids] * np.float64(np.float32(scale))


def merge_attention(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> tuple[Array, Array]:
    """Both sides weighted by the share of the sum that they hold."""
    top = np.maximum(lse_a, lse_b)
    a, b = np.exp(lse_a - top), np.exp(lse_b - top)
    merged = (out_a * a[..., None] + out_b * b[..., None]) / (a + b)[..., None]
    return merged, top + np.log(a + b)


def quantize(x: Array) -> tuple[Array, Array]:
    """127 steps to the largest magnitude of a row."""
    scale = np.abs(x).max(-1, keepdims=True, initial=0.0) / 127
    scale[scale == 0] = 1
    return np.rint(x / scale), scale


def sample_top_k_top_p(
    logits: Array, top_k: Array, top_p: Array, min_p: Array, uniform: Array
) -> Array:
    """The id in whose interval the number falls."""
    ids = []
    for row, k, p, m, u in zip(logits, top_k, top_p, min_p, uniform, strict=True):
        kept, probs = filtered(row, int(k), float(p), float(m))
        ids.append(kept[int(np.searchsorted(np.cumsum(probs), u, side="right"))])
    return np.array(ids, np.int64)


def copy_pages(pool: Array, source: Array, target: Array) -> Array:
    """All read before any is written."""
    out = pool.copy()
    out[target] = pool[source]
    return out


def apply_token_bitmask(logits: Array, mask: Array) -> Array:
    """Bit by bit."""
    out = logits.copy()
    for row, words in enumerate(mask):
        for token in range(logits.shape[1]):
            if not (int(words[token // 32]) >> (token % 32)) & 1:
                out[row, token] = np.float32(NEGATIVE)
    return out


def evaluate(op: str, args: dict[str, Any]) -> tuple[Array, ...]:
    """An op's outputs for a sample's arguments."""
    oracle: Callable[..., Any] = globals()[op]
    ready = {name: _widen(value) for name, value in args.items()}
    out = oracle(**ready)
    return out if isinstance(out, tuple) else (out,)


def _widen(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return (value.double() if value.is_floating_point() else value).numpy()
