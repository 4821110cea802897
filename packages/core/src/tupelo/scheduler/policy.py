"""The order of the waiting queue.

Every policy returns a new order; ties keep arrival order. Names are SGLang's: ``fcfs`` arrival,
``lpm`` longest cached prefix first, ``dfs-weight`` depth first through the prefix tree, ``lof``
longest output first, ``random``, ``priority`` larger first.
"""

import random
from collections.abc import Callable, Sequence

from tupelo.cache.prefix_cache import PrefixCache
from tupelo.scheduler.entry import Entry

Order = Callable[[Sequence[Entry], PrefixCache], list[Entry]]

MAX_MATCHED = 256
"""Requests that one step matches against the tree, of those that wait and have a part in it."""


def make_policy(name: str, seed: int = 0) -> Order:
    """The ordering function of a policy.

    Args:
        name: one of ``POLICIES`` or ``"random"``, checked by the config.
        seed: of the random policy.
    """
    if name == "random":
        rng = random.Random(seed)
        return lambda waiting, cache: rng.sample(waiting, len(waiting))
    return POLICIES[name]


def _fcfs(waiting: Sequence[Entry], cache: PrefixCache) -> list[Entry]:
    return list(waiting)


def _longest_prefix(waiting: Sequence[Entry], cache: PrefixCache) -> list[Entry]:
    begun, rest = _begun(waiting, cache)
    lengths = [
        cache.match_length(e.namespace, e.ids[: e.num_ids], max_tokens=e.max_match) for e in begun
    ]
    order = sorted(range(len(begun)), key=lambda i: -lengths[i])
    return [*(begun[i] for i in order), *rest]


def _depth_first(waiting: Sequence[Entry], cache: PrefixCache) -> list[Entry]:
    begun, rest = _begun(waiting, cache)
    order = cache.weighted_order([(e.namespace, e.ids[: e.num_ids]) for e in begun])
    return [*(begun[i] for i in order), *rest]


def _begun(waiting: Sequence[Entry], cache: PrefixCache) -> tuple[list[Entry], list[Entry]]:
    """Those whose first page the tree has, ``MAX_MATCHED`` of them at most, and all others.

    Everybody's first page is looked at, which is cheap, so that a request finds those that share
    its prefix however many others wait between them.
    """
    begun: list[Entry] = []
    rest: list[Entry] = []
    for entry in waiting:
        full = len(begun) == MAX_MATCHED
        there = not full and cache.begins(entry.namespace, entry.ids[: entry.num_ids])
        (begun if there else rest).append(entry)
    return begun, rest


def _longest_output(waiting: Sequence[Entry], cache: PrefixCache) -> list[Entry]:
    return sorted(waiting, key=lambda e: -e.max_new_tokens)


def _priority(waiting: Sequence[Entry], cache: PrefixCache) -> list[Entry]:
    return sorted(waiting, key=lambda e: -e.request.priority)


POLICIES: dict[str, Order] = {
    "fcfs": _fcfs,
    "lpm": _longest_prefix,
    "dfs-weight": _depth_first,
    "lof": _longest_output,
    "priority": _priority,
}
