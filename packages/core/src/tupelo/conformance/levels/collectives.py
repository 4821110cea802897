"""Level 4: collectives over two ranks, each a process of its own."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from tupelo.backend import Collectives
from tupelo.conformance.case import Case, check
from tupelo.conformance.processes import Child
from tupelo.conformance.rank import CHECKS
from tupelo.conformance.target import Target

WORLD_SIZE = 2
TIMEOUT_S = 120.0

Answers = list[dict[str, str | None]]


def collectives_cases(target: Target) -> Iterator[Case]:
    """The cases of level 4: ``collectives/DTYPE/CHECK``; one pair of processes for each dtype."""
    has = target.backend.capabilities
    skip = ""
    if has.max_world_size < WORLD_SIZE:
        skip = f"the backend declares max_world_size {has.max_world_size}"
    elif not target.source:
        skip = "the backend exists in this process only"
    elif _devices(target) < WORLD_SIZE:
        skip = f"this machine has {_devices(target)} device for {WORLD_SIZE} ranks"
    for dtype in has.dtypes:
        ranks = _Ranks(target, dtype)
        for name in ("ranks", *CHECKS):
            yield Case(f"collectives/{dtype}/{name}", 4, partial(ranks.check, name), skip)
    yield Case("collectives/single_rank", 4, partial(_single_rank, target))


class _Ranks:
    """The answers of the ranks for one dtype, asked for once, when the first case needs them."""

    def __init__(self, target: Target, dtype: str) -> None:
        self._target = target
        self._dtype = dtype
        self._answers: Answers = []

    def check(self, name: str) -> None:
        """Fail with what any rank said of a check."""
        if not self._answers:
            self._answers = _ask(self._target.source, self._dtype)
        for rank, answers in enumerate(self._answers):
            check(answers[name] is None, f"rank {rank}: {answers[name]}")


def _ask(source: str, dtype: str) -> Answers:
    with tempfile.TemporaryDirectory() as folder:
        common = ["--backend", source, "--dtype", dtype, "--world-size", str(WORLD_SIZE)]
        store = ["--store", str(Path(folder) / "store")]
        children = [
            Child("tupelo.conformance.rank", [*common, *store, "--rank", str(rank)])
            for rank in range(WORLD_SIZE)
        ]
        try:
            return [child.answer(TIMEOUT_S) for child in children]
        finally:
            for child in children:
                child.end()


def _devices(target: Target) -> int:
    """Devices that ranks can have to themselves; the host serves any number."""
    on_host = torch.device(target.backend.device).type == "cpu"
    return WORLD_SIZE if on_host else torch.accelerator.device_count()


def _single_rank(target: Target) -> None:
    """Over no group: one rank, whose collectives are the identity."""
    group: Collectives = target.backend.collectives(None)
    device = target.backend.runtime(target.backend.device).device
    x = torch.arange(6.0, device=device).view(3, 2)
    check((group.rank, group.world_size) == (0, 1), f"rank {group.rank} of {group.world_size}")
    results = [
        group.all_reduce(x),
        group.all_gather(x),
        group.reduce_scatter(x),
        group.all_to_all(x, [3], [3]),
        group.broadcast(x, 0),
    ]
    for got in results:
        check(torch.equal(got, x), "a collective over one rank is not the identity")
