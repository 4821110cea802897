"""A child process of the kit: one rank of a group, which checks every collective.

Both ranks know every rank's numbers, because they are seeded by rank; what should arrive is
computed from them in numpy. Prints ``{check: failure or null}`` as JSON.
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tupelo.backend import Backend, Collectives
from tupelo.conformance.case import check
from tupelo.conformance.target import find_factory, make
from tupelo.ops import OPS, OpCall, OpTable

CHECKS = (
    "all_reduce",
    "all_gather",
    "all_gather_dim_1",
    "reduce_scatter",
    "all_to_all",
    "all_to_all_uneven",
    "broadcast",
    "send_recv",
    "strided",
    "empty",
    "all_reduce_add_norm",
)

SIZE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
"""Allowed error of a sum of two numbers of size 1 to 4, accumulated in the type itself."""


class RankChecks:
    """The checks of one rank.

    Args:
        device: where this rank's tensors live.
    """

    def __init__(
        self, backend: Backend, group: Collectives, device: torch.device, dtype: str
    ) -> None:
        self._backend, self._group, self._device, self._dtype = backend, group, device, dtype
        self._world = range(group.world_size)

    def all_reduce(self) -> None:
        """The sum, on every rank; the argument stays."""
        x = self._numbers(self._group.rank, 3, 4)
        kept = x.clone()
        self._same(self._group.all_reduce(x), self._sum(3, 4))
        check(torch.equal(x, kept), "all_reduce changed its argument")

    def all_gather(self) -> None:
        """Rank order along the first axis."""
        got = self._group.all_gather(self._numbers(self._group.rank, 3, 4))
        self._same(got, np.concatenate(self._all(3, 4)), exact=True)

    def all_gather_dim_1(self) -> None:
        """Rank order along the last axis."""
        got = self._group.all_gather(self._numbers(self._group.rank, 3, 4), dim=1)
        self._same(got, np.concatenate(self._all(3, 4), axis=1), exact=True)

    def reduce_scatter(self) -> None:
        """This rank's rows of the sum."""
        rows = 3 * len(self._world)
        got = self._group.reduce_scatter(self._numbers(self._group.rank, rows, 4))
        start = 3 * self._group.rank
        self._same(got, self._sum(rows, 4)[start : start + 3])

    def all_to_all(self) -> None:
        """Two rows to each rank."""
        self._exchange([[2 for _ in self._world] for _ in self._world])

    def all_to_all_uneven(self) -> None:
        """Another number of rows for each pair, none for some."""
        self._exchange([[(3 * a + 2 * b) % 4 for b in self._world] for a in self._world])

    def broadcast(self) -> None:
        """From each rank in turn."""
        for source in self._world:
            got = self._group.broadcast(self._numbers(self._group.rank, 3, 4), source)
            self._same(got, self._all(3, 4)[source], exact=True)

    def send_recv(self) -> None:
        """Around the ring, even ranks sending first."""
        rank, size = self._group.rank, len(self._world)
        target, source = (rank + 1) % size, (rank - 1) % size
        x = self._numbers(rank, 3, 4)
        if rank % 2 == 0:
            self._group.send(x, target)
            got = self._group.recv(x, source)
        else:
            got = self._group.recv(x, source)
            self._group.send(x, target)
        self._same(got, self._all(3, 4)[source], exact=True)

    def strided(self) -> None:
        """Arguments that are transposed views."""
        x = self._numbers(self._group.rank, 4, 6).T
        turned = [n.T for n in self._all(4, 6)]
        self._same(self._group.all_reduce(x), np.sum(turned, axis=0))
        self._same(self._group.all_gather(x), np.concatenate(turned), exact=True)
        self._same(self._group.broadcast(x, 1), turned[1], exact=True)

    def empty(self) -> None:
        """Tensors without rows."""
        x = self._numbers(self._group.rank, 0, 4)
        check(self._group.all_reduce(x).shape == (0, 4), "all_reduce of no rows")
        check(self._group.all_gather(x).shape == (0, 4), "all_gather of no rows")

    def all_reduce_add_norm(self) -> None:
        """The op, through the kernel that a model would get, over the whole group."""
        call = OpCall(op="all_reduce_add_norm", dtype=self._dtype, shape=(4,))
        bound = OpTable(OPS, self._backend.kernels).bind(call)
        x, zero = self._numbers(self._group.rank, 3, 4), self._numbers(0, 3, 4) * 0
        weight = self._numbers(0, 1, 4)[0] * 0 + 1
        normed, total = bound(x, zero, weight, 0.0, self._group)
        want = self._sum(3, 4)
        self._same(total, want)
        self._same(normed, want / np.sqrt((want**2).mean(-1, keepdims=True)))

    def _exchange(self, counts: list[list[int]]) -> None:
        """``counts[a][b]`` rows from rank a to rank b."""
        rank = self._group.rank
        send, receive = counts[rank], [counts[a][rank] for a in self._world]
        got = self._group.all_to_all(self._numbers(rank, sum(send), 4), send, receive)
        want = [
            self._wide(a, sum(counts[a]), 4)[sum(counts[a][:rank]) : sum(counts[a][: rank + 1])]
            for a in self._world
        ]
        self._same(got, np.concatenate(want), exact=True)

    def _numbers(self, rank: int, *shape: int) -> Tensor:
        random = np.random.default_rng((rank, *shape))
        numbers = torch.from_numpy(random.standard_normal(shape, np.float32))
        return numbers.to(self._device, getattr(torch, self._dtype))

    def _wide(self, rank: int, *shape: int) -> np.ndarray:
        return self._numbers(rank, *shape).double().cpu().numpy()

    def _all(self, *shape: int) -> list[np.ndarray]:
        return [self._wide(rank, *shape) for rank in self._world]

    def _sum(self, *shape: int) -> np.ndarray:
        total: np.ndarray = np.stack(self._all(*shape)).sum(axis=0)
        return total

    def _same(self, got: Tensor, want: np.ndarray, *, exact: bool = False) -> None:
        numbers = got.double().cpu().numpy()
        check(numbers.shape == want.shape, f"shape {numbers.shape}, want {want.shape}")
        limit = 0.0 if exact else SIZE[self._dtype]
        worst = float(np.abs(numbers - want).max(initial=0.0))
        check(worst <= limit, f"off by {worst:.3g}; allowed {limit:.3g}")


def main() -> None:
    """Join the group, run every check in the order of ``CHECKS``, print what failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--store", required=True)
    args = parser.parse_args()
    backend = make(find_factory(args.backend))
    assert isinstance(backend, Backend)
    kind = torch.device(backend.device).type
    device = torch.device(kind) if kind == "cpu" else torch.device(kind, args.rank)
    if kind != "cpu":
        torch.accelerator.set_device_index(args.rank)
    dist.init_process_group(
        backend.capabilities.collective_library,
        init_method=f"file://{args.store}",
        rank=args.rank,
        world_size=args.world_size,
    )
    group = backend.collectives(dist.group.WORLD)
    checks = RankChecks(backend, group, device, args.dtype)
    answers: dict[str, str | None] = {
        "ranks": None
        if (group.rank, group.world_size) == (args.rank, args.world_size)
        else f"rank {group.rank} of {group.world_size}, want {args.rank} of {args.world_size}"
    }
    for name in CHECKS:
        answers[name] = _failure(getattr(checks, name))
    dist.destroy_process_group()
    print(json.dumps(answers))


def _failure(run: Callable[[], None]) -> str | None:
    try:
        run()
    except Exception as error:  # reported to the parent; later checks still run on both ranks
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main()
