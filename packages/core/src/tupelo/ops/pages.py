"""Moving K/V pages inside a pool."""

from torch import Tensor


def copy_pages(pool: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """``pool[target] = pool[source]``, reading every source before writing any target.

    Args:
        pool: (num_pages, ...) storage of one layer's K or V.
        source, target: (n,) page ids; targets are distinct.

    Returns:
        The pool after the copy; a new tensor, the argument is unchanged.
    """
    return pool.index_copy(0, target, pool[source])
