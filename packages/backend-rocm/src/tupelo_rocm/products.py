"""Ways to compute products that AMD GPUs have: torch's own choice among hipBLAS's kernels,
hipBLASLt, and AITER's, and which launches of core's kernels are tried beside them."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.choices import ChoiceTable, Product, Run
from tupelo.triton.products import Library, measure, ways
from tupelo_rocm.arch import Arch
from tupelo_rocm.product_tuning import launches


def candidates(arch: Arch, aiter: Library | None) -> Callable[[Product], Mapping[str, Run]]:
    """Ways to compute a product, torch's choice first."""
    libraries: dict[str, Library] = {"hipblas": _hipblas, "hipblaslt": _hipblaslt}
    if aiter is not None:
        libraries["aiter"] = aiter
    tried = launches(arch)
    return lambda product: ways(product, libraries, tried)


def hipblas_only() -> ChoiceTable:
    """A table that has no choice."""
    return ChoiceTable(lambda product: _first(product), measure)


def _first(product: Product) -> Mapping[str, Run]:
    from tupelo.triton.products import Launches

    return ways(product, {"hipblas": _hipblas}, Launches(most=0))


def _hipblas(x: Tensor, weight: LinearWeight) -> Tensor:
    return F.linear(x, weight.weight, weight.bias)


def _hipblaslt(x: Tensor, weight: LinearWeight) -> Tensor:
    # Torch's ROCm builds take CUDA's name for it.
    usual = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")
    try:
        return F.linear(x, weight.weight, weight.bias)
    finally:
        torch.backends.cuda.preferred_blas_library(usual)
