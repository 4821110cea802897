"""Ways to compute products that Intel's GPUs have: torch's own, which is oneDNN's, and which
launches of core's kernels are tried beside it. Imported only where triton is."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.choices import ChoiceTable, Product, Run
from tupelo.triton.products import Launches, measure, ways
from tupelo_xpu.card import Card


def candidates(card: Card) -> Callable[[Product], Mapping[str, Run]]:
    """Ways to compute a product, torch's first."""
    tried = Launches(shared_bytes=card.local_bytes)
    return lambda product: ways(product, {"onednn": _onednn}, tried)


def onednn_only() -> ChoiceTable:
    """A table that has no choice."""
    return ChoiceTable(
        lambda product: ways(product, {"onednn": _onednn}, Launches(most=0)), measure
    )


def _onednn(x: Tensor, weight: LinearWeight) -> Tensor:
    return F.linear(x, weight.weight, weight.bias)
