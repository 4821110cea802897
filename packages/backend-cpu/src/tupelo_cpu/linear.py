"""Linear layers on packed weights, alone and fused, on the native kernels.

Signatures and results are those of the ops of the same name in ``tupelo.ops.linear``, for float32
on the CPU, with each ``LinearWeight`` replaced by what ``LinearOps.pack`` made of it.
"""

import ctypes

import torch
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo_cpu.elementwise import ACTIVATION_CODES, MLP_CODES, dense
from tupelo_cpu.native.bindings import NativeLibrary, PackedWeightStruct


class PackedLinear:
    """One weight in panels of columns (``gemm.h`` draws the layout), owned by this record.

    Attributes:
        out_features, in_features: of the weight.
        data: (ceil(out_features / columns) * columns * in_features,) float32.
        bias: padded like the columns, or None.
        address: of the C record that the kernels take; valid as long as this object lives.
    """

    __slots__ = ("_struct", "address", "bias", "data", "in_features", "out_features")

    def __init__(
        self, data: Tensor, bias: Tensor | None, out_features: int, in_features: int
    ) -> None:
        self.data, self.bias = data, bias
        self.out_features, self.in_features = out_features, in_features
        self._struct = PackedWeightStruct(
            data.data_ptr(),
            bias.data_ptr() if bias is not None else None,
            out_features,
            in_features,
        )
        self.address = ctypes.addressof(self._struct)


class LinearOps:
    """The ops as methods over one library. Thread-safe; holds no state."""

    def __init__(self, library: NativeLibrary) -> None:
        self._columns = library.panel_columns
        self._pack = library.pack
        self._linear = library.linear
        self._gated_mlp = library.gated_mlp
        self._activate = library.activate
        self._gate_mul = library.gate_mul
        self._add_norm_linear = library.add_norm_linear

    def pack(self, weight: LinearWeight) -> PackedLinear:
        """Lay a plain weight out for the kernels below; takes as many bytes as the weight."""
        plain = dense(weight.weight)
        bias = dense(weight.bias) if weight.bias is not None else None
        rows, width = plain.shape
        padded = -(-rows // self._columns) * self._columns
        data = torch.empty(padded * width)
        packed_bias = torch.empty(padded) if bias is not None else None
        self._pack(
            plain.data_ptr(),
            bias.data_ptr() if bias is not None else None,
            data.data_ptr(),
            packed_bias.data_ptr() if packed_bias is not None else None,
            rows,
            width,
            torch.get_num_threads(),
        )
        return PackedLinear(data, packed_bias, rows, width)

    def linear(self, x: Tensor, weight: PackedLinear) -> Tensor:
        """As ``tupelo.ops.linear.linear``."""
        x = dense(x)
        rows = x.shape[0]
        out = torch.empty(rows, weight.out_features)
        self._linear(weight.address, x.data_ptr(), out.data_ptr(), rows, torch.get_num_threads())
        return out

    def gated_mlp(
        self, x: Tensor, activation: str, gate_up: PackedLinear, down: PackedLinear
    ) -> Tensor:
        """As ``tupelo.ops.linear.gated_mlp``, in one parallel region."""
        x = dense(x)
        rows = x.shape[0]
        out = torch.empty(rows, down.out_features)
        self._gated_mlp(
            gate_up.address,
            down.address,
            x.data_ptr(),
            out.data_ptr(),
            rows,
            ACTIVATION_CODES[activation],
            torch.get_num_threads(),
        )
        return out

    def mlp(self, x: Tensor, activation: str, up: PackedLinear, down: PackedLinear) -> Tensor:
        """As ``tupelo.ops.linear.mlp``."""
        wide = self.linear(x, up)
        rows, width = wide.shape
        code, threads = MLP_CODES[activation], torch.get_num_threads()
        if not activation.endswith("_mul"):
            self._activate(wide.data_ptr(), wide.data_ptr(), rows, width, code, threads)
            return self.linear(wide, down)
        out = torch.empty(rows, width // 2)
        self._gate_mul(wide.data_ptr(), out.data_ptr(), rows, width // 2, code, threads)
        return self.linear(out, down)

    def add_norm_linear(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm_weight: Tensor,
        eps: float,
        weight: PackedLinear,
    ) -> tuple[Tensor, Tensor]:
        """As ``tupelo.ops.linear.add_norm_linear``, in one parallel region."""
        x, norm_weight = dense(x), dense(norm_weight)
        rows = x.shape[0]
        out = torch.empty(rows, weight.out_features)
        total, residual_address = x, None
        if residual is not None:
            residual = dense(residual)
            total, residual_address = torch.empty_like(x), residual.data_ptr()
        self._add_norm_linear(
            weight.address,
            x.data_ptr(),
            residual_address,
            norm_weight.data_ptr(),
            eps,
            out.data_ptr(),
            total.data_ptr(),
            rows,
            torch.get_num_threads(),
        )
        return out, total
