"""Products with weights: cuBLAS, cuBLASLt and core's Triton kernels, the fastest of them for each
shape and number of rows.

Signatures and results of ``ProductOps`` are those of the ops of the same name in
``tupelo.ops.linear``. In float32, and where nothing was measured, cuBLAS computes.
"""

import logging
import statistics
from collections.abc import Mapping
from dataclasses import astuple
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.activation import ACTIVATIONS
from tupelo.triton.gemv import add_norm_gemv
from tupelo.triton.linear import run_linear
from tupelo.triton.linear_config import MAX_ROWS, LinearConfig, configs
from tupelo.triton.norm import add_rms_norm, rms_norm
from tupelo_cuda import cublaslt
from tupelo_cuda.choices import ChoiceTable, Product, Run, row_bucket
from tupelo_cuda.cublaslt import LtConfig

logger = logging.getLogger(__name__)

MAX_CANDIDATES = 5
"""Triton launches that are tried for a product: each is compiled once, for a second."""

PREFERRED = (
    # block_n, block_k, num_stages, splits
    (32, 128, 4, 1),
    (16, 256, 4, 1),
    (32, 128, 4, 2),
    (64, 128, 4, 1),
    (64, 128, 3, 2),
    (64, 128, 3, 1),
    (32, 256, 3, 1),
)
"""Launches of several rows that won on some GPU, tried before others."""

MIN_ELEMENTS = 1 << 20
"""Smaller weights are read in no time: only the launch counts, and nothing is tried."""

LT_MIN_ROWS = 16
"""Products of fewer rows are bound by the weights' bytes."""

LT_NEAR = 8
"""An algorithm's tiles suit row counts down to a bucket's less this part of it."""

SHARED_BYTES = 200 << 10
FLUSH_BYTES = 256 << 20
"""Written before each timed run: more than any L2 cache, and long enough to hide the launch."""

MANY_ROWS = 1024
"""Products of at least so many rows are bound by arithmetic."""

REPEATS = 9
MAX_DIFFERENCE = 2e-2
"""Of a candidate from the default, relative to the largest output: more is a wrong kernel."""


class ProductOps:
    """The ops as methods over one table of choices."""

    def __init__(self, table: ChoiceTable) -> None:
        self._table = table

    def linear(self, x: Tensor, weight: LinearWeight) -> Tensor:
        """As ``tupelo.ops.linear.linear``."""
        product: Tensor = self._run("linear", x, weight, (x, weight))
        return product

    def add_norm_linear(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm_weight: Tensor,
        eps: float,
        weight: LinearWeight,
    ) -> tuple[Tensor, Tensor]:
        """As ``tupelo.ops.linear.add_norm_linear``: one launch for one row, if that is faster."""
        if residual is None:
            return self.linear(rms_norm(x, norm_weight, eps), weight), x
        if x.shape[0] == 1:
            arguments = (x, residual, norm_weight, eps, weight)
            both: tuple[Tensor, Tensor] = self._run("add_norm", x, weight, arguments)
            return both
        normed, total = add_rms_norm(x, residual, norm_weight, eps)
        return self.linear(normed, weight), total

    def gated_mlp(
        self, x: Tensor, activation: str, gate_up: LinearWeight, down: LinearWeight
    ) -> Tensor:
        """As ``tupelo.ops.linear.gated_mlp``."""
        if x.shape[0] > MAX_ROWS:
            hidden = ACTIVATIONS[activation](self.linear(x, gate_up))
        else:
            hidden = self._run(f"gated_{activation}", x, gate_up, (x, gate_up))
        return self.linear(hidden, down)

    def _run(self, kind: str, x: Tensor, weight: LinearWeight, arguments: tuple[Any, ...]) -> Any:
        product = Product(
            kind,
            weight.out_features,
            weight.in_features,
            str(x.dtype).removeprefix("torch."),
            row_bucket(x.shape[0]),
            weight.bias is not None,
        )
        return self._table.find(product, arguments)(*arguments)


def cublas_only() -> ChoiceTable:
    """A table that has no choice."""
    return ChoiceTable(lambda product: {"cublas": candidates(product)["cublas"]}, measure)


def candidates(product: Product) -> Mapping[str, Run]:
    """Ways to compute a product, cuBLAS first."""
    activation = product.kind.removeprefix("gated_") if product.kind.startswith("gated") else ""
    libraries: dict[str, Run] = {"cublas": _cublas, "cublaslt": _cublaslt}
    if activation:
        ways: dict[str, Run] = {
            name: partial(_then_gate, run, activation) for name, run in libraries.items()
        }
    elif product.kind == "add_norm":
        ways = {name: partial(_norm_then, run) for name, run in libraries.items()}
    else:
        ways = libraries
    small = product.out_features * product.in_features < MIN_ELEMENTS
    if product.dtype == "float32" or small:
        return {"cublas": ways["cublas"]}
    if product.rows > MAX_ROWS:
        return ways
    shape = (product.out_features, product.in_features)
    found = configs(shape, product.rows, gated=bool(activation), shared_bytes=SHARED_BYTES)
    for config in sorted(found, key=_preference)[:MAX_CANDIDATES]:
        name = "triton_" + "_".join(map(str, astuple(config)))
        if product.kind == "add_norm":
            ways[name] = partial(add_norm_gemv, config=config)
        else:
            ways[name] = partial(_triton, config, activation)
    return ways


def _preference(config: LinearConfig) -> int:
    """Its place in ``PREFERRED``; others keep their order, after those."""
    tried = (config.block_n, config.block_k, config.num_stages, config.splits)
    return PREFERRED.index(tried) if tried in PREFERRED else len(PREFERRED)


def measure(ways: Mapping[str, Run], arguments: tuple[Any, ...]) -> dict[str, float]:
    """Median seconds of each way; wrong and failing ones are left out.

    Ways take turns, so that all meet the same clock rate. Few rows are timed with cold caches, as
    weights are when a step comes to them. Many are timed one right after another: what they need is
    power, and the fastest of a cool device isn't that of a hot one.
    """
    able = _able(ways, arguments)
    many = arguments[0].shape[0] >= MANY_ROWS
    size = 1 if many else FLUSH_BYTES
    flush = torch.empty(size, dtype=torch.uint8, device=arguments[0].device)
    times: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(REPEATS):
        for name, run in able.items():
            times[name].append(_time_s(run, arguments, flush))
    return {name: statistics.median(taken) for name, taken in times.items()}


def _able(ways: Mapping[str, Run], arguments: tuple[Any, ...]) -> dict[str, Run]:
    """The ways that give the default's result."""
    want: Tensor | None = None
    able = {}
    for name, run in ways.items():
        try:
            got = _first(run(*arguments))
        except Exception as error:  # one launch does not fit this device: the others remain
            if want is None:
                raise
            _refuse(name, f"{type(error).__name__}: {error}")
            continue
        if want is None:
            want = got
        if _differs(got, want):
            _refuse(name, "its result is wrong")
            continue
        able[name] = run
    return able


def _refuse(name: str, reason: str) -> None:
    logger.warning("%s is not used: %s", name, reason)


def _first(result: Any) -> Tensor:
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor


def _differs(got: Tensor, want: Tensor) -> bool:
    largest = want.float().abs().max()
    return not bool((got.float() - want.float()).abs().max() <= MAX_DIFFERENCE * largest)


def _time_s(run: Run, arguments: tuple[Any, ...], flush: Tensor) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    flush.zero_()
    begin.record()
    run(*arguments)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _cublas(x: Tensor, weight: LinearWeight) -> Tensor:
    return F.linear(x, weight.weight, weight.bias)


def _cublaslt(x: Tensor, weight: LinearWeight) -> Tensor:
    usual = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")
    try:
        return F.linear(x, weight.weight, weight.bias)
    finally:
        torch.backends.cuda.preferred_blas_library(usual)


def offered(product: Product, arguments: tuple[Any, ...]) -> dict[str, Run]:
    """The algorithms that cuBLASLt has for a product, beyond the one that it would take."""
    if not _has_algorithms(product) or not torch.cuda.is_available():
        return {}
    x, weight = arguments
    try:
        configs = cublaslt.library().configs(x, weight.weight)
    except (OSError, RuntimeError) as error:
        _refuse("cuBLASLt", str(error))
        return {}
    return {config.name: partial(_lt, config, product.rows) for config in configs}


def named(product: Product, name: str) -> Run | None:
    """The way that only its name tells of: one of ``offered``."""
    config = cublaslt.parse_name(name)
    if config is None or not _has_algorithms(product):
        return None
    return partial(_lt, config, product.rows)


def _has_algorithms(product: Product) -> bool:
    plain = product.kind == "linear" and not product.bias and product.dtype != "float32"
    return plain and product.rows >= LT_MIN_ROWS


def _lt(config: LtConfig, bucket: int, x: Tensor, weight: LinearWeight) -> Tensor:
    """The named algorithm, for row counts near the bucket's own, for which it was chosen."""
    if LT_NEAR * x.shape[0] <= (LT_NEAR - 1) * bucket:
        return _cublas(x, weight)
    found = cublaslt.library().linear(config, x, weight.weight)
    return _cublas(x, weight) if found is None else found


def _triton(config: LinearConfig, activation: str, x: Tensor, weight: LinearWeight) -> Tensor:
    return run_linear(x, weight, config, activation)


def _then_gate(product: Run, activation: str, x: Tensor, weight: LinearWeight) -> Tensor:
    return ACTIVATIONS[activation](product(x, weight))


def _norm_then(
    product: Run,
    x: Tensor,
    residual: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: LinearWeight,
) -> tuple[Tensor, Tensor]:
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return product(normed, weight), total
