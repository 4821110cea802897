"""Norms, gated activations and the split of qkv, on the native kernels.

Signatures and results are those of the ops of the same name in ``tupelo.ops``, for float32 on the
CPU. Inputs are made dense first where they aren't; every output is new memory.
"""

import torch
from torch import Tensor

from tupelo.ops import OpCall
from tupelo.specs import NO_QUANT
from tupelo_cpu.native.bindings import NativeLibrary

SILU, GELU_TANH, GELU_ERF, RELU = 0, 1, 2, 3  # as in vec.h
ACTIVATION_CODES = {"silu": SILU, "gelu": GELU_TANH}
MLP_CODES = {"gelu_erf": GELU_ERF, "gelu_tanh": GELU_TANH, "relu": RELU, "gelu_erf_mul": GELU_ERF}


def dense(x: Tensor) -> Tensor:
    """``x`` as dense float32, itself where it is that already."""
    if x.dtype is torch.float32 and x.is_contiguous():
        return x
    return x.to(torch.float32).contiguous()


def supports(call: OpCall) -> str | None:
    """Whether the native kernels can serve a call, and if not, why: ``Kernel.supports``."""
    if call.dtype != "float32":
        return f"computes in float32, not {call.dtype}"
    if call.scheme != NO_QUANT:
        return f"reads plain weights, not {call.scheme.name}"
    return None


def _int64(x: Tensor) -> Tensor:
    if x.dtype is torch.int64 and x.is_contiguous():
        return x
    return x.to(torch.int64).contiguous()


class ElementwiseOps:
    """The ops as methods over one library. Thread-safe; holds no state."""

    def __init__(self, library: NativeLibrary) -> None:
        self._rms_norm = library.rms_norm
        self._add_rms_norm = library.add_rms_norm
        self._gate_mul = library.gate_mul
        self._norm_rope_qkv = library.norm_rope_qkv

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """As ``tupelo.ops.norm.rms_norm``: x (..., width), weight (width,)."""
        x, weight = dense(x), dense(weight)
        out = torch.empty_like(x)
        width = weight.shape[0]
        self._rms_norm(
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            x.numel() // width,
            width,
            eps,
            torch.get_num_threads(),
        )
        return out

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """As ``tupelo.ops.norm.add_rms_norm``: x, residual (num_tokens, width)."""
        x, residual, weight = dense(x), dense(residual), dense(weight)
        out, total = torch.empty_like(x), torch.empty_like(x)
        width = weight.shape[0]
        self._add_rms_norm(
            x.data_ptr(),
            residual.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            total.data_ptr(),
            x.numel() // width,
            width,
            eps,
            torch.get_num_threads(),
        )
        return out, total

    def silu_mul(self, x: Tensor) -> Tensor:
        """As ``tupelo.ops.activation.silu_mul``: x (num_tokens, 2 * width)."""
        return self._gate(x, SILU)

    def gelu_mul(self, x: Tensor) -> Tensor:
        """As ``tupelo.ops.activation.gelu_mul``: x (num_tokens, 2 * width)."""
        return self._gate(x, GELU_TANH)

    def _gate(self, x: Tensor, activation: int) -> Tensor:
        x = dense(x)
        rows, width = x.shape[0], x.shape[1] // 2
        out = torch.empty(rows, width)
        self._gate_mul(
            x.data_ptr(), out.data_ptr(), rows, width, activation, torch.get_num_threads()
        )
        return out

    def norm_rope_qkv(
        self,
        qkv: Tensor,
        positions: Tensor,
        cos_sin: Tensor,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        eps: float,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``tupelo.ops.rope.norm_rope_qkv``; positions int64 or int32."""
        qkv, cos_sin, positions = dense(qkv), dense(cos_sin), _int64(positions)
        q_norm = dense(q_norm) if q_norm is not None else None
        k_norm = dense(k_norm) if k_norm is not None else None
        rows = qkv.shape[0]
        q = torch.empty(rows, num_heads, head_dim)
        k = torch.empty(rows, num_kv_heads, head_dim)
        v = torch.empty(rows, num_kv_heads, head_dim)
        max_positions, rotary_dim = cos_sin.shape
        self._norm_rope_qkv(
            qkv.data_ptr(),
            positions.data_ptr(),
            cos_sin.data_ptr(),
            q_norm.data_ptr() if q_norm is not None else None,
            k_norm.data_ptr() if k_norm is not None else None,
            eps,
            num_heads,
            num_kv_heads,
            head_dim,
            max_positions,
            rotary_dim,
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            rows,
            torch.get_num_threads(),
        )
        return q, k, v
