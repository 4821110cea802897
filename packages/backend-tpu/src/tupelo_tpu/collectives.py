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
        if isinstance(group, list):
            super().__init__(None)
            self.world_size = len(group)
            self._ranks = group
        else:
            super().__init__(group)
            self._ranks = list(range(self.world_size))

    def all_reduce(self, x: Tensor) -> Tensor:
        if self.world_size == 1:
            return x
        import torch_xla.core.xla_model as xm

        total: Tensor = xm.all_reduce(xm.REDUCE_SUM, x, groups=[self._ranks])
        return total

    def all_gather(self, x: Tensor, dim: int = 0) -> Tensor:
        if self.world_size == 1:
            return x
        import torch_xla.core.xla_model as xm

        joined: Tensor = xm.all_gather(x, dim=dim, groups=[self._ranks])
        return joined

    def reduce_scatter(self, x: Tensor) -> Tensor:
        if self.world_size == 1:
            return x
        import torch_xla.core.xla_model as xm

        share: Tensor = xm.reduce_scatter(
            xm.REDUCE_SUM, x, 1.0, 0, self.world_size, groups=[self._ranks]
        )
        return share

    def broadcast(self, x: Tensor, source: int) -> Tensor:
        mine = self.rank == source
        return x if self.world_size == 1 else self.all_reduce(x if mine else torch.zeros_like(x))
