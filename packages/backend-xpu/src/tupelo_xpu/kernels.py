"""Ops of this backend as records of the contract: a library's, products by choice, core's in
Triton."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tupelo.config import environment
from tupelo.ops import Kernel, OpCall, Tier
from tupelo.ops.trial import Trials
from tupelo.triton.choices import ChoiceTable
from tupelo_xpu.card import Card
from tupelo_xpu.options import Options
from tupelo_xpu.vendor import has_triton


def product_table(options: Options, card: Card) -> ChoiceTable | None:
    """How products are computed on a card; None where triton is missing or choice is off."""
    if not options.measured_linear or not has_triton():
        return None
    import triton

    from tupelo.triton.products import measure
    from tupelo_xpu.products import candidates

    return ChoiceTable(
        candidates(card),
        measure,
        file=environment().cache_dir / "xpu" / "products.json",
        identity=f"{card.name}; torch {torch.__version__}; triton {triton.__version__}",
    )


def xpu_kernels(
    options: Options, table: ChoiceTable | None, device: str
) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """Kernels in order of preference within a tier, each tried before it serves, and why a
    library's are missing."""
    library, refused = _library_kernels(options)
    if not has_triton():
        return Trials(device).tried(library), refused
    from tupelo.triton.kernels import portable_kernels

    kernels = (*library, *_product_kernels(table), *portable_kernels())
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


def _library_kernels(options: Options) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    if options.vllm:
        from tupelo_xpu.vllm_ops import vllm_kernels

        return vllm_kernels()
    if options.ipex:
        from tupelo_xpu.ipex import ipex_kernels

        return ipex_kernels()
    return (), ()


def _product_kernels(table: ChoiceTable | None) -> tuple[Kernel, ...]:
    """Products by choice, or without a table always as torch computes them."""
    from tupelo.triton.products import ProductOps
    from tupelo_xpu.products import onednn_only

    ops = ProductOps(onednn_only() if table is None else table)
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
