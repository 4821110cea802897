"""Storing K/V in pages: ATB's kernel, CANN's own, or torch's, whichever stores the right thing."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from tupelo_npu import calls

logger = logging.getLogger(__name__)

Writer = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""``(k, v, k_pool, v_pool, places)``: as ``calls.scatter_kv``."""


def index_copy(k: Tensor, v: Tensor, k_pool: Tensor, v_pool: Tensor, places: Tensor) -> None:
    """As ``calls.scatter_kv``, by torch."""
    for new, pool in ((k, k_pool), (v, v_pool)):
        pool.flatten(0, 1).index_copy_(0, places.long(), new)


WRITERS: dict[str, Writer] = {
    "_npu_reshape_and_cache": calls.reshape_and_cache,
    "npu_scatter_pa_kv_cache": calls.scatter_kv,
}
"""Best first, by the operator's name."""


def choose_writer(pool: Tensor) -> Writer:
    """The first that stores a few tokens right in a small pool like ``pool``; the others are
    disabled by name, with a warning."""
    for name, write in WRITERS.items():
        reason = f"this torch-npu has no {name}" if calls.lacking(name) else _differs(write, pool)
        if not reason:
            logger.info("K/V are stored by %s", name)
            return write
        logger.warning("%s is disabled: %s", name, reason)
    return index_copy


def _differs(write: Writer, pool: Tensor) -> str:
    """How it stores otherwise than ``index_copy``; "" if it does not."""
    shape, device = (3, *pool.shape[1:]), pool.device
    places = [shape[1] + 5 % shape[1], 0, 2 * shape[1] - 1, 3 * shape[1] - 2]
    where = torch.tensor(places, dtype=torch.int32, device=device)
    size = len(places) * shape[2] * shape[3]
    k = (torch.arange(size, device=device) % 61).to(pool.dtype).view(len(places), *shape[2:])
    stored = []
    for fn in (index_copy, write):
        pools = [torch.zeros(shape, dtype=pool.dtype, device=device) for _ in range(2)]
        try:
            fn(k, k + 1, pools[0], pools[1], where)
        except Exception as error:  # a library may raise anything
            first = str(error).strip().splitlines() or [""]
            return f"{type(error).__name__}: {first[0]}"
        stored.append([p.cpu() for p in pools])
    same = all(torch.equal(a, b) for a, b in zip(*stored, strict=True))
    return "" if same else "it stores something else"
