"""MLP blocks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from tupelo.errors import UnsupportedModel
from tupelo.layers.linear import Linear, Part
from tupelo.layers.parallel import Parallel
from tupelo.layers.parameter import Parameter
from tupelo.ops import OpCall, OpTable

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
"""Hugging Face's names of the activations that ``gated_mlp`` has, to its own."""


PLAIN_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""Hugging Face's names of the activations that ``mlp`` has, to its own."""


def activation_name(activation: str, known: Mapping[str, str] = ACTIVATIONS) -> str:
    """The op's name of an activation that Hugging Face calls ``activation``.

    Raises:
        UnsupportedModel: no op computes it.
    """
    if activation not in known:
        raise UnsupportedModel(
            f"activation {activation!r} is not supported; supported: {', '.join(known)}"
        )
    return known[activation]


class MLP(Protocol):
    """A block after attention: (num_tokens, hidden_size) to this rank's partial sums of the same
    shape."""

    def parameters(self) -> Iterator[Parameter]:
        """In the order of the computation."""
        ...

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose kernels and pack weights."""
        ...

    def forward(self, x: Tensor) -> Tensor:
        """(num_tokens, hidden_size) for the same shape."""
        ...


class GatedMLP(MLP):
    """``down(act(gate(x)) * up(x))``: this rank's partial sums.

    Args:
        gate_up: the two projections, or their parts of one fused tensor. down: the third's name.

    Raises:
        UnsupportedModel: an activation that no op computes.
        ConfigError: the intermediate size does not divide by the ranks.
    """

    def __init__(
        self,
        gate_up: Sequence[Part],
        down: str,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        parallel: Parallel,
        *,
        bias: bool,
    ) -> None:
        self._activation = activation_name(activation)
        rows = parallel.share(intermediate_size, "rows of the MLP")
        self._gate_up = Linear.column(gate_up, hidden_size, bias=bias)
        self._down = Linear.row(down, hidden_size, intermediate_size, rows, parallel, bias=bias)

    def parameters(self) -> Iterator[Parameter]:
        """In the order of the computation."""
        yield from self._gate_up.parameters()
        yield from self._down.parameters()

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose the kernel, pack weights, and drop plain ones that nothing needs."""
        call = OpCall(
            op="gated_mlp",
            dtype=dtype,
            shape=(self._gate_up.in_features, self._down.in_features),
            statics=(("activation", self._activation),),
        )
        weights = {"gate_up": self._gate_up.weight(), "down": self._down.weight()}
        self._fn = table.bind(call, weights=weights)
        self._gate_up.release()
        self._down.release()

    def forward(self, x: Tensor) -> Tensor:
        """(num_tokens, hidden_size) for the same shape."""
        out: Tensor = self._fn(x, self._activation)
        return out


class PlainMLP(MLP):
    """``down(act(up(x)))``: this rank's partial sums.

    Raises:
        UnsupportedModel: an activation that no op computes.
    """

    def __init__(self, up: Linear, down: Linear, activation: str) -> None:
        self._up = up
        self._down = down
        self._activation = activation_name(activation, PLAIN_ACTIVATIONS)

    def parameters(self) -> Iterator[Parameter]:
        yield from self._up.parameters()
        yield from self._down.parameters()

    def bind(self, table: OpTable, dtype: str) -> None:
        call = OpCall(
            op="mlp",
            dtype=dtype,
            shape=(self._up.in_features, self._down.in_features),
            statics=(("activation", self._activation),),
        )
        weights = {"up": self._up.weight(), "down": self._down.weight()}
        self._fn = table.bind(call, weights=weights)
        self._up.release()
        self._down.release()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._fn(x, self._activation)
        return out
