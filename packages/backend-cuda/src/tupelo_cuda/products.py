"""Ways to compute products that NVIDIA GPUs have: cuBLAS, cuBLASLt and named algorithms of it, and
which launches of core's kernels are tried beside them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.choices import ChoiceTable, Product, Run
from tupelo.triton.products import Launches, Library, measure, refuse, ways
from tupelo_cuda import cublaslt
from tupelo_cuda.cublaslt import LtConfig

LAUNCHES = Launches(
    shared_bytes=200 << 10,
    preferred=(  # won on some GPU
        # block_n, block_k, num_stages, splits
        (32, 128, 4, 1),
        (16, 256, 4, 1),
        (32, 128, 4, 2),
        (64, 128, 4, 1),
        (64, 128, 3, 2),
        (64, 128, 3, 1),
        (32, 256, 3, 1),
    ),
)

LT_MIN_ROWS = 16
"""Products of fewer rows are bound by the weights' bytes."""

LT_NEAR = 8
"""An algorithm's tiles suit row counts down to a bucket's less this part of it."""


def cublas_only() -> ChoiceTable:
    """A table that has no choice."""
    return ChoiceTable(lambda product: {"cublas": candidates(product)["cublas"]}, measure)


def candidates(product: Product) -> Mapping[str, Run]:
    """Ways to compute a product, cuBLAS first."""
    return ways(product, LIBRARIES, LAUNCHES)


def offered(product: Product, arguments: tuple[Any, ...]) -> dict[str, Run]:
    """The algorithms that cuBLASLt has for a product, beyond the one that it would take."""
    if not _has_algorithms(product) or not torch.cuda.is_available():
        return {}
    x, weight = arguments
    try:
        configs = cublaslt.open_library().configs(x, weight.weight)
    except (OSError, RuntimeError) as error:
        refuse("cuBLASLt", str(error))
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
    found = cublaslt.open_library().linear(config, x, weight.weight)
    return _cublas(x, weight) if found is None else found


def _cublas(x: Tensor, weight: LinearWeight) -> Tensor:
    return F.linear(x, weight.weight, weight.bias)


def _cublaslt(x: Tensor, weight: LinearWeight) -> Tensor:
    usual = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")
    try:
        return F.linear(x, weight.weight, weight.bias)
    finally:
        torch.backends.cuda.preferred_blas_library(usual)


LIBRARIES: dict[str, Library] = {"cublas": _cublas, "cublaslt": _cublaslt}
