"""Heads that make a vector, or the numbers of classes, of hidden states."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.checkpoint import HeadLayer
from tupelo.errors import UnsupportedModel
from tupelo.layers.linear import Linear
from tupelo.layers.norm import LayerNorm
from tupelo.layers.parameter import Parameter, Source, whole
from tupelo.ops import OpCall, OpTable

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}


class PoolHead:
    """Linear layers in a row, each with an activation, and a norm where it has one.

    A head sees a row for each text, so nothing of it is split over ranks.

    Args:
        layers: as the checkpoint says; none: the head changes nothing. eps: of the norms.

    Raises:
        UnsupportedModel: an activation that is not known.
    """

    def __init__(self, layers: Sequence[HeadLayer], eps: float) -> None:
        for layer in layers:
            if layer.activation not in _ACTIVATIONS:
                raise UnsupportedModel(
                    f"activation {layer.activation!r} of {layer.name} is not supported; "
                    f"supported: {', '.join(_ACTIVATIONS)}"
                )
        self._layers = tuple(layers)
        self._linears = [_linear(layer) for layer in layers]
        self._norms = [
            LayerNorm(layer.norm, layer.out_features, eps, bias=layer.norm_bias)
            if layer.norm
            else None
            for layer in layers
        ]

    def parameters(self) -> Iterator[Parameter]:
        """In the order of the computation."""
        for linear, norm in zip(self._linears, self._norms, strict=True):
            yield from linear.parameters()
            if norm is not None:
                yield from norm.parameters()

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose kernels and pack weights."""
        self._steps: list[Callable[[Tensor], Tensor]] = []
        for layer, linear, norm in zip(self._layers, self._linears, self._norms, strict=True):
            call = OpCall(op="linear", dtype=dtype, shape=linear.shape)
            self._steps.append(table.bind(call, weights={"weight": linear.weight()}))
            linear.release()
            self._steps.append(_ACTIVATIONS[layer.activation])
            if norm is not None:
                self._steps.append(norm.bind(table, dtype))

    def forward(self, features: Tensor) -> Tensor:
        """(n, width of the last layer) for (n, hidden_size)."""
        for step in self._steps:
            features = step(features)
        return features


def _linear(layer: HeadLayer) -> Linear:
    shape = (layer.out_features, layer.in_features)
    bias = whole(f"{layer.name}.bias", (layer.out_features,)) if layer.bias else None
    if not layer.rows:
        return Linear(whole(f"{layer.name}.weight", shape), bias)
    columns = slice(0, layer.in_features)
    sources = tuple(
        Source(
            name=f"{layer.name}.weight",
            shape=(layer.num_rows, layer.in_features),
            take=(slice(row, row + 1), columns),
            place=(slice(at, at + 1), columns),
        )
        for at, row in enumerate(layer.rows)
    )
    return Linear(Parameter(shape=shape, sources=sources), bias)
