"""The weights of norms, and the joints between blocks: sum over ranks, residual, norm."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from tupelo.layers.parallel import SINGLE, Parallel
from tupelo.layers.parameter import Parameter, whole
from tupelo.ops import OpCall, OpTable

AddNorm = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class RMSNorm:
    """Weight and epsilon of ``rms_norm``.

    Args:
        name: Hugging Face's, without ``.weight``.
        offset: added to the stored weight at load. Such a weight is kept in float32, because
            ``1 + weight`` needs bits that a 16-bit type does not have (Gemma multiplies in float32
            too).
    """

    def __init__(self, name: str, size: int, eps: float, offset: float = 0.0) -> None:
        self.size = size
        self.eps = eps
        self.wide = offset != 0.0
        self._weight = whole(
            f"{name}.weight", (size,), offset=offset, dtype="float32" if self.wide else None
        )

    def parameters(self) -> Iterator[Parameter]:
        """The weight."""
        yield self._weight

    @property
    def weight(self) -> Tensor:
        """(size,), loaded."""
        return self._weight.data

    def bind(self, table: OpTable, dtype: str) -> Callable[[Tensor], Tensor]:
        """``x -> rms_norm(x)``."""
        fn, weight, eps = self._choose(table, dtype, "rms_norm"), self.weight, self.eps
        return lambda x: fn(x, weight, eps)

    def bind_add(self, table: OpTable, dtype: str, parallel: Parallel) -> AddNorm:
        """See ``bind_add_norm``."""
        weight, eps = self.weight, self.eps
        if parallel.world_size > 1:
            several, group = self._choose(table, dtype, "all_reduce_add_norm"), parallel.collectives
            return lambda x, residual: several(x, residual, weight, eps, group)
        fn = self._choose(table, dtype, "add_rms_norm")
        return lambda x, residual: fn(x, residual, weight, eps)

    def _choose(self, table: OpTable, dtype: str, op: str) -> Callable[..., Any]:
        statics = norm_statics(self)
        return table.bind(OpCall(op=op, dtype=dtype, shape=(self.size,), statics=statics))


class LayerNorm:
    """Weight, bias and epsilon of ``layer_norm``.

    Args:
        name: Hugging Face's, without ``.weight``. bias: whether there is one.
    """

    def __init__(self, name: str, size: int, eps: float, *, bias: bool) -> None:
        self.size = size
        self.eps = eps
        self._weight = whole(f"{name}.weight", (size,))
        self._bias = whole(f"{name}.bias", (size,)) if bias else None

    def parameters(self) -> Iterator[Parameter]:
        """The weight, then the bias where there is one."""
        yield self._weight
        if self._bias is not None:
            yield self._bias

    def bind(self, table: OpTable, dtype: str) -> Callable[[Tensor], Tensor]:
        """``x -> layer_norm(x)``."""
        fn, args = self._choose(table, dtype, "layer_norm")
        return lambda x: fn(x, *args)

    def bind_add(self, table: OpTable, dtype: str, parallel: Parallel) -> AddNorm:
        """See ``bind_add_norm``."""
        fn, args = self._choose(table, dtype, "add_layer_norm")
        if parallel.world_size > 1:
            reduce = parallel.collectives.all_reduce
            return lambda x, residual: fn(reduce(x), residual, *args)
        return lambda x, residual: fn(x, residual, *args)

    def _choose(
        self, table: OpTable, dtype: str, op: str
    ) -> tuple[Callable[..., Any], tuple[Tensor, Tensor | None, float]]:
        bias = None if self._bias is None else self._bias.data
        fn = table.bind(OpCall(op=op, dtype=dtype, shape=(self.size,)))
        return fn, (self._weight.data, bias, self.eps)


Norm = RMSNorm | LayerNorm


def norm_statics(*norms: RMSNorm) -> tuple[tuple[str, str], ...]:
    """The ``OpCall.statics`` of an op over these norms: told apart where a weight is float32."""
    return (("norm_dtype", "float32"),) if any(n.wide for n in norms) else ()


def bind_add_norm(table: OpTable, dtype: str, norm: Norm, parallel: Parallel) -> AddNorm:
    """``(x, residual) -> (norm(r), r)`` with ``r = residual + sum of x over the ranks``."""
    return norm.bind_add(table, dtype, parallel)


def bind_enter_norm(
    table: OpTable, dtype: str, norm: Norm, parallel: Parallel = SINGLE
) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """As ``bind_add_norm``; where there is no residual, ``x`` is the whole stream."""
    alone, join = norm.bind(table, dtype), norm.bind_add(table, dtype, parallel)

    def enter(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        return (alone(x), x) if residual is None else join(x, residual)

    return enter


def bind_sum_norm(
    table: OpTable, dtype: str, norm: Norm, parallel: Parallel
) -> Callable[[Tensor], Tensor]:
    """``x -> norm(sum of x over the ranks)``."""
    fn = norm.bind(table, dtype)
    if parallel.world_size > 1:
        reduce = parallel.collectives.all_reduce
        return lambda x: fn(reduce(x))
    return fn
