"""Depth-first order of waiting requests, so that those of one prefix run together."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tupelo.cache.radix import Namespace, Node, RadixTree, key_ids


def weighted_order(
    tree: RadixTree, requests: Sequence[tuple[Namespace, npt.NDArray[np.integer]]]
) -> list[int]:
    """Indices of ``requests`` depth first, at each node the branch of most requests first.

    Requests that end at a node come after those that go on below it, in the order given; so do,
    last of all, requests whose namespace the tree does not know.
    """
    weights: dict[Node, int] = {}
    seen: dict[Node, int] = {}
    paths: list[list[Node]] = []
    for namespace, ids in requests:
        path: list[Node] = []
        root = tree.roots.get(namespace)
        if root is not None:
            found = tree.walk(root, key_ids(ids), len(ids) // tree.page_size)
            path = [root, *(node for node, _ in found)]
        for node in path:
            weights[node] = weights.get(node, 0) + 1
            seen.setdefault(node, len(seen))
        paths.append(path)
    end = (1, len(seen))  # Sorts after every real branch, whose first element is negative.

    def rank(index: int) -> list[tuple[int, int]]:
        return [*((-weights[node], seen[node]) for node in paths[index]), end]

    return sorted(range(len(requests)), key=rank)
