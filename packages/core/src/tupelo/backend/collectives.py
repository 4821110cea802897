"""Communication among the ranks of a group: the vendor-facing protocol and the torch default."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor


@runtime_checkable
class Collectives(Protocol):
    """Collective operations over one group of ranks, given at construction. No argument is
    changed."""

    rank: int
    world_size: int

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over the ranks, on every rank."""
        ...

    def all_gather(self, x: Tensor, dim: int = 0) -> Tensor:
        """The ranks' ``x`` joined along ``dim`` in rank order."""
        ...

    def reduce_scatter(self, x: Tensor) -> Tensor:
        """This rank's share, along the first axis, of the sum; that axis divides by world_size."""
        ...

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Rows ``send[r]`` of ``x`` go to rank r, in order; returns ``receive[r]`` rows from
        each."""
        ...

    def broadcast(self, x: Tensor, source: int) -> Tensor:
        """The ``x`` of rank ``source``; shapes and dtypes agree on all ranks."""
        ...

    def send(self, x: Tensor, target: int) -> None:
        """Hand ``x`` to rank ``target``, which receives it."""
        ...

    def recv(self, like: Tensor, source: int) -> Tensor:
        """What rank ``source`` sent, of the shape and dtype of ``like``."""
        ...


class TorchCollectives(Collectives):
    """Over a ``torch.distributed`` process group; a group of one rank communicates nothing.

    Args:
        group: the process group, or None for a single rank.
    """

    def __init__(self, group: Any | None = None) -> None:
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)

    def all_reduce(self, x: Tensor) -> Tensor:
        if self.world_size == 1:
            return x
        total = x.clone()
        dist.all_reduce(total, group=self._group)
        return total

    def all_gather(self, x: Tensor, dim: int = 0) -> Tensor:
        if self.world_size == 1:
            return x
        parts = [
            torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(self.world_size)
        ]
        dist.all_gather(parts, x.contiguous(), group=self._group)
        return torch.cat(parts, dim=dim)

    def reduce_scatter(self, x: Tensor) -> Tensor:
        if self.world_size == 1:
            return x
        share = torch.empty(
            (x.shape[0] // self.world_size, *x.shape[1:]), dtype=x.dtype, device=x.device
        )
        dist.reduce_scatter_tensor(share, x.contiguous(), group=self._group)
        return share

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        if self.world_size == 1:
            return x
        out = torch.empty((sum(receive), *x.shape[1:]), dtype=x.dtype, device=x.device)
        dist.all_to_all_single(out, x.contiguous(), list(receive), list(send), group=self._group)
        return out

    def broadcast(self, x: Tensor, source: int) -> Tensor:
        if self.world_size == 1:
            return x
        copy = x.clone(memory_format=torch.contiguous_format)
        dist.broadcast(copy, group_src=source, group=self._group)
        return copy

    def send(self, x: Tensor, target: int) -> None:
        dist.send(x.contiguous(), group_dst=target, group=self._group)

    def recv(self, like: Tensor, source: int) -> Tensor:
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        dist.recv(out, group_src=source, group=self._group)
        return out
