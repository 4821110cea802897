"""Ops of this backend as records of the contract: core's Triton kernels, and products by choice."""

import importlib.util
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from tupelo.config import environment
from tupelo.ops import Kernel, OpCall, Tier
from tupelo.triton.choices import ChoiceTable
from tupelo_cuda.options import Options


def product_table(options: Options, device: str) -> ChoiceTable | None:
    """How products are computed on a device; None where triton is missing or choice is off."""
    if not options.measured_linear or importlib.util.find_spec("triton") is None:
        return None
    import triton

    from tupelo.triton.products import measure
    from tupelo_cuda.products import candidates, named, offered

    name = torch.cuda.get_device_name(device)
    return ChoiceTable(
        candidates,
        measure,
        offered=offered,
        named=named,
        known=known_choices(name),
        file=environment().cache_dir / "cuda" / "products.json",
        identity=f"{name}; torch {torch.__version__}; triton {triton.__version__}",
    )


def cuda_kernels(table: ChoiceTable | None) -> tuple[Kernel, ...]:
    """Kernels in order of preference within a tier; none where triton is missing."""
    if importlib.util.find_spec("triton") is None:
        return ()
    from tupelo.triton.kernels import portable_kernels

    return (*_product_kernels(table), *portable_kernels())


def known_choices(device_name: str) -> dict[str, str]:
    """Choices shipped for a device, which spare its first start the measuring."""
    text = resources.files("tupelo_cuda").joinpath("known_choices.json").read_text()
    devices: dict[str, dict[str, str]] = json.loads(text)
    return devices.get(device_name, {})


def best_tokens() -> Callable[[Tensor], Tensor]:
    """Greedy token ids of logits (S, vocab_size); always ids, even of rows that are not numbers."""
    if importlib.util.find_spec("triton") is None:
        return lambda logits: torch.argmax(logits, dim=-1)
    from tupelo.triton.vocab import argmax

    return lambda logits: argmax(logits).clamp_(max=logits.shape[1] - 1)


def plain_weights(call: OpCall) -> str | None:
    """Everything but quantised weights."""
    if call.scheme.name != "none":
        return f"reads plain weights, not {call.scheme.name}"
    return None


def _product_kernels(table: ChoiceTable | None) -> tuple[Kernel, ...]:
    """Products by choice, or without a table always by cuBLAS."""
    from tupelo.triton.products import ProductOps
    from tupelo_cuda.products import cublas_only

    ops = ProductOps(cublas_only() if table is None else table)
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
