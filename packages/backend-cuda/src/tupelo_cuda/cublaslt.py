"""Products by an algorithm of cuBLASLt that is named, not by the one that it would choose.

Its own choice among its kernels is often some percent slower than the best of them. Torch offers no
way to name one, so this calls the library, which torch has loaded, through its C interface.
Source of the calls and constants: cublasLt.h.
"""

import ctypes
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

WORKSPACE_BYTES = 32 << 20
MAX_CALLS = 1024
"""Shapes whose descriptors are kept; then all are made anew."""

_TYPES = {torch.bfloat16: 14, torch.float16: 2}
_FLOAT32, _COMPUTE_FLOAT32 = 0, 68
_TRANS_A = 3
_MAX_WORKSPACE = 1
_ATTRIBUTES = (0, 1, 2, 5)
"""Of an algorithm: family, tile, parts of the inner dimension, variant."""

MAX_ALGORITHMS = 16
"""Asked for at once, the one that the library thinks best first."""

PREFIX = "lt_"


@dataclass(frozen=True, slots=True)
class LtConfig:
    """An algorithm, by the library's numbers of its parts."""

    family: int
    tile: int
    splits: int
    variant: int

    @property
    def name(self) -> str:
        """As choices remember it."""
        return PREFIX + "_".join(map(str, astuple(self)))


def parse_name(name: str) -> LtConfig | None:
    """The algorithm that ``LtConfig.name`` gave this name; None for other names."""
    numbers = name.removeprefix(PREFIX).split("_")
    if not name.startswith(PREFIX) or len(numbers) != 4 or not all(n.isdigit() for n in numbers):
        return None
    return LtConfig(*map(int, numbers))


class _Algorithm(ctypes.Structure):
    _fields_ = (("data", ctypes.c_uint64 * 8),)


class _Found(ctypes.Structure):
    _fields_ = (
        ("algorithm", _Algorithm),
        ("workspace_bytes", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@dataclass(slots=True)
class _Call:
    """Descriptors of one product, and the algorithms that the library has for it."""

    product: ctypes.c_void_p
    layouts: tuple[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    algorithms: dict[LtConfig, _Algorithm]


class CublasLt:
    """The library on the current device.

    Raises:
        OSError: torch has not loaded it, or it is of another name here.
    """

    def __init__(self) -> None:
        major = str(torch.version.cuda).partition(".")[0]
        self._library = ctypes.CDLL(f"libcublasLt.so.{major}")
        self._handle = ctypes.c_void_p()
        self._check(self._library.cublasLtCreate(ctypes.byref(self._handle)))
        self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
        self._preference = ctypes.c_void_p()
        self._check(self._library.cublasLtMatmulPreferenceCreate(ctypes.byref(self._preference)))
        most = ctypes.c_size_t(WORKSPACE_BYTES)
        self._check(
            self._library.cublasLtMatmulPreferenceSetAttribute(
                self._preference, _MAX_WORKSPACE, ctypes.byref(most), ctypes.c_size_t(8)
            )
        )
        self._one, self._zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
        self._calls: dict[Any, _Call] = {}

    def configs(self, x: Tensor, weight: Tensor) -> list[LtConfig]:
        """The algorithms for ``linear`` of these, the one that the library thinks best first."""
        return list(self._call(x, weight).algorithms)

    def linear(self, config: LtConfig, x: Tensor, weight: Tensor) -> Tensor | None:
        """``x @ weight.T``; None where the library does not offer the algorithm for it.

        Args:
            x: (rows, in_features), the last axis contiguous. weight: (out_features, in_features).
        """
        call = self._call(x, weight)
        algorithm = call.algorithms.get(config)
        if algorithm is None:
            return None
        out = torch.empty((x.shape[0], weight.shape[0]), dtype=x.dtype, device=x.device)
        a, b, d = call.layouts
        stream = torch.cuda.current_stream(x.device).cuda_stream
        self._check(
            self._library.cublasLtMatmul(
                self._handle,
                call.product,
                ctypes.byref(self._one),
                ctypes.c_void_p(weight.data_ptr()),
                a,
                ctypes.c_void_p(x.data_ptr()),
                b,
                ctypes.byref(self._zero),
                ctypes.c_void_p(out.data_ptr()),
                d,
                ctypes.c_void_p(out.data_ptr()),
                d,
                ctypes.byref(algorithm),
                ctypes.c_void_p(self._workspace.data_ptr()),
                ctypes.c_size_t(WORKSPACE_BYTES),
                ctypes.c_void_p(stream),
            )
        )
        return out

    def _call(self, x: Tensor, weight: Tensor) -> _Call:
        key = (x.shape[0], x.stride(0), weight.shape, weight.stride(0), x.dtype)
        if key not in self._calls:
            if len(self._calls) >= MAX_CALLS:
                self._forget()
            self._calls[key] = self._prepare(x, weight)
        return self._calls[key]

    def _prepare(self, x: Tensor, weight: Tensor) -> _Call:
        """Describe ``out.T = weight @ x.T`` in columns, as the library counts, and ask for
        algorithms."""
        library, (out_features, in_features) = self._library, weight.shape
        kind, product = _TYPES[x.dtype], ctypes.c_void_p()
        self._check(
            library.cublasLtMatmulDescCreate(ctypes.byref(product), _COMPUTE_FLOAT32, _FLOAT32)
        )
        transposed = ctypes.c_int(1)
        self._check(
            library.cublasLtMatmulDescSetAttribute(
                product, _TRANS_A, ctypes.byref(transposed), ctypes.c_size_t(4)
            )
        )
        layouts = (
            self._layout(kind, in_features, out_features, weight.stride(0)),
            self._layout(kind, in_features, x.shape[0], x.stride(0)),
            self._layout(kind, out_features, x.shape[0], out_features),
        )
        return _Call(product, layouts, self._algorithms(product, layouts))

    def _algorithms(
        self, product: ctypes.c_void_p, layouts: tuple[ctypes.c_void_p, ...]
    ) -> dict[LtConfig, _Algorithm]:
        a, b, d = layouts
        found, count = (_Found * MAX_ALGORITHMS)(), ctypes.c_int(0)
        status = self._library.cublasLtMatmulAlgoGetHeuristic(
            self._handle, product, a, b, d, d, self._preference, MAX_ALGORITHMS, found,
            ctypes.byref(count),
        )  # fmt: skip
        if status:  # it has none
            return {}
        algorithms: dict[LtConfig, _Algorithm] = {}
        for one in found[: count.value]:
            if one.status == 0:
                algorithms.setdefault(self._config(one.algorithm), one.algorithm)
        return algorithms

    def _config(self, algorithm: _Algorithm) -> LtConfig:
        numbers = []
        for attribute in _ATTRIBUTES:
            value, size = ctypes.c_int(0), ctypes.c_size_t(0)
            self._library.cublasLtMatmulAlgoConfigGetAttribute(
                ctypes.byref(algorithm), attribute, ctypes.byref(value), ctypes.c_size_t(4),
                ctypes.byref(size),
            )  # fmt: skip
            numbers.append(value.value)
        return LtConfig(*numbers)

    def _layout(self, kind: int, rows: int, columns: int, stride: int) -> ctypes.c_void_p:
        layout = ctypes.c_void_p()
        self._check(
            self._library.cublasLtMatrixLayoutCreate(
                ctypes.byref(layout),
                kind,
                ctypes.c_uint64(rows),
                ctypes.c_uint64(columns),
                ctypes.c_int64(stride),
            )
        )
        return layout

    def _forget(self) -> None:
        for call in self._calls.values():
            self._check(self._library.cublasLtMatmulDescDestroy(call.product))
            for layout in call.layouts:
                self._check(self._library.cublasLtMatrixLayoutDestroy(layout))
        self._calls.clear()

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"cuBLASLt answers with status {status}")


@cache
def open_library() -> CublasLt:
    """The one of this process.

    Raises:
        OSError: there is none.
    """
    return CublasLt()
