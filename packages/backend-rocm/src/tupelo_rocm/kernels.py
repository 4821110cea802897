"""Ops of this backend as records of the contract: AITER's, products by choice, core's in Triton."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tupelo.config import environment
from tupelo.ops import Kernel, OpCall, Tier
from tupelo.ops.trial import Trials
from tupelo.triton.choices import ChoiceTable
from tupelo_rocm.arch import Arch
from tupelo_rocm.options import Options


def has_triton() -> bool:
    """Whether there is a Triton to compile core's kernels with."""
    return importlib.util.find_spec("triton") is not None


def product_table(options: Options, arch: Arch, device_name: str) -> ChoiceTable | None:
    """How products are computed on a device; None where triton is missing or choice is off."""
    if not options.measured_linear or not has_triton():
        return None
    import triton

    from tupelo.triton.products import measure
    from tupelo_rocm.aiter_ops import aiter_product
    from tupelo_rocm.products import candidates

    return ChoiceTable(
        candidates(arch, aiter_product(arch.name) if options.aiter else None),
        measure,
        file=environment().cache_dir / "rocm" / "products.json",
        identity=f"{device_name} {arch.name}; torch {torch.__version__}; "
        f"triton {triton.__version__}",
    )


def rocm_kernels(
    options: Options, arch: Arch, table: ChoiceTable | None, device: str
) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """Kernels in order of preference within a tier, each tried before it serves, and why AITER's
    are missing; none where triton is."""
    if not has_triton():
        return (), ()
    from tupelo.triton.kernels import portable_kernels
    from tupelo_rocm.aiter_ops import aiter_kernels

    vendor, refused = aiter_kernels(arch.name) if options.aiter else ((), ())
    products = _product_kernels(table)
    portable = [
        replace(kernel, fn=_tuned_experts(arch)) if kernel.op == "moe_experts" else kernel
        for kernel in portable_kernels()
        if kernel.op not in {product.op for product in products}  # whose sizes are not this card's
    ]
    kernels = (*vendor, *products, *portable)
    return Trials(device).tried(kernels), refused


def best_tokens() -> Callable[[Tensor], Tensor]:
    """Greedy token ids of logits (S, vocab_size); always ids, even of rows that are not numbers."""
    if not has_triton():
        return lambda logits: torch.argmax(logits, dim=-1)
    from tupelo.triton.vocab import argmax

    return lambda logits: argmax(logits).clamp_(max=logits.shape[1] - 1)


def plain_weights(call: OpCall) -> str | None:
    """Everything but quantised weights."""
    if call.scheme.name != "none":
        return f"reads plain weights, not {call.scheme.name}"
    return None


def _product_kernels(table: ChoiceTable | None) -> tuple[Kernel, ...]:
    """Products by choice, or without a table always as torch computes them."""
    from tupelo.triton.products import ProductOps
    from tupelo_rocm.products import hipblas_only

    ops = ProductOps(hipblas_only() if table is None else table)
    named: dict[str, Callable[..., Any]] = {
        "linear": ops.linear,
        "add_norm_linear": ops.add_norm_linear,
        "gated_mlp": ops.gated_mlp,
        "mlp": ops.mlp,
    }
    return tuple(
        Kernel(op=op, name=f"chosen_{op}", fn=fn, tier=Tier.VENDOR, supports=plain_weights)
        for op, fn in named.items()
    )


def _tuned_experts(arch: Arch) -> Callable[..., Any]:
    """Core's experts, launched in this architecture's sizes."""
    from tupelo.triton.moe import run_experts
    from tupelo_rocm.product_tuning import moe_sizes

    def moe_experts(
        x: Tensor,
        weights: Tensor,
        experts: Tensor,
        activation: str,
        gate_up: Tensor,
        down: Tensor,
        gate_up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
    ) -> Tensor:
        config = sizes(x, gate_up)
        biases = (gate_up_bias, down_bias)
        return run_experts(x, weights, experts, activation, gate_up, down, *biases, config=config)

    sizes = partial(moe_sizes, arch)
    return moe_experts
