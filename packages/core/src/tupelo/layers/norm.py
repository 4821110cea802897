"""The weight of an RMS norm, and the joints between blocks: sum over ranks, residual, norm."""

from collections.abc import Callable, Iterator

from torch import Tensor

from tupelo.layers.parallel import Parallel
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


def norm_statics(*norms: RMSNorm) -> tuple[tuple[str, str], ...]:
    """The ``OpCall.statics`` of an op over these norms: told apart where a weight is float32."""
    return (("norm_dtype", "float32"),) if any(n.wide for n in norms) else ()


def bind_add_norm(table: OpTable, dtype: str, norm: RMSNorm, parallel: Parallel) -> AddNorm:
    """``(x, residual) -> (rms_norm(r), r)`` with ``r = residual + sum of x over the ranks``."""
    several = parallel.world_size > 1
    call = OpCall(
        op="all_reduce_add_norm" if several else "add_rms_norm",
        dtype=dtype,
        shape=(norm.size,),
        statics=norm_statics(norm),
    )
    fn, weight, eps = table.bind(call), norm.weight, norm.eps
    if several:
        group = parallel.collectives
        return lambda x, residual: fn(x, residual, weight, eps, group)
    return lambda x, residual: fn(x, residual, weight, eps)


def bind_sum_norm(
    table: OpTable, dtype: str, norm: RMSNorm, parallel: Parallel
) -> Callable[[Tensor], Tensor]:
    """``x -> rms_norm(sum of x over the ranks)``."""
    call = OpCall(op="rms_norm", dtype=dtype, shape=(norm.size,), statics=norm_statics(norm))
    fn, weight, eps = table.bind(call), norm.weight, norm.eps
    if parallel.world_size > 1:
        reduce = parallel.collectives.all_reduce
        return lambda x: fn(reduce(x), weight, eps)
    return lambda x: fn(x, weight, eps)
