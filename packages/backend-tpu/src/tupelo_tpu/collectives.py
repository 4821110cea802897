"""Collective operations among the ranks of a group, as XLA's own ops."""

from typing import Any

import torch
from torch import Tensor

from tupelo.backend import TorchCollectives


class XlaCollectives(TorchCollectives):
    """Each operation is part of the program that it is traced into.

    Args:
        group: a ``torch.distributed`` group over XLA, None for one rank, or the ranks themselves as
            a list: then this process stands for the first, for compiling ahead of time.
    """

    def __init__(self, group: Any | None = None) -> None:
        super().__init__(None if isinstance(group, list) else group)
        self._ranks = group if isinstance(group, list) else list(range(self.world_size))
        self.world_size = len(self._ranks)

    def all_reduce(self, x: Tensor) -> Tensor:
        if self.world_size == 1:
            return x
        total: Tensor = _xla().all_reduce(_xla().REDUCE_SUM, x, groups=[self._ranks])
        return total

    def all_gather(self, x: Tensor, dim: int = 0) -> Tensor:
        if self.world_size == 1:
            return x
        joined: Tensor = _xla().all_gather(x, dim=dim, groups=[self._ranks])
        return joined

    def reduce_scatter(self, x: Tensor) -> Tensor:
        if self.world_size == 1:
            return x
        how = (_xla().REDUCE_SUM, x, 1.0, 0, self.world_size)
        share: Tensor = _xla().reduce_scatter(*how, groups=[self._ranks])
        return share

    def broadcast(self, x: Tensor, source: int) -> Tensor:
        mine = self.rank == source
        return x if self.world_size == 1 else self.all_reduce(x if mine else torch.zeros_like(x))


def _xla() -> Any:
    import torch_xla.core.xla_model

    return torch_xla.core.xla_model
