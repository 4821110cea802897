"""The end of a row-parallel product: sum over ranks, then the norm of the next block."""

from typing import Protocol

from torch import Tensor

from tupelo.ops.norm import add_rms_norm


class AllReduce(Protocol):
    """What this op needs of ``tupelo.backend.Collectives``."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over the group."""
        ...


def all_reduce_add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, group: AllReduce
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm(all_reduce(x), residual, weight, eps)``.

    Args:
        x: (num_tokens, hidden_size), this rank's partial sums.
        residual, weight, eps: as in ``add_rms_norm``.
        group: the ranks to sum over.
    """
    return add_rms_norm(group.all_reduce(x), residual, weight, eps)
