"""The page allocator of one group."""

import numpy as np
import pytest

from tupelo.cache.pages import CACHED, OWNED, PageAllocator


def pages(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def test_every_page_is_handed_out_once() -> None:
    pool = PageAllocator(10)
    taken = np.concatenate([pool.alloc(3), pool.alloc(0), pool.alloc(7)])
    assert sorted(taken.tolist()) == list(range(10))
    assert (pool.num_free, pool.num_owned) == (0, 10)
    pool.free(taken[2:5], state=OWNED)
    assert sorted(pool.alloc(3).tolist()) == sorted(taken[2:5].tolist())


def test_more_than_is_free_is_a_bug_of_the_caller() -> None:
    pool = PageAllocator(2)
    with pytest.raises(AssertionError, match="3 pages wanted, 2 are free"):
        pool.alloc(3)


@pytest.mark.parametrize("second", [(1,), (0, 1)], ids=["alone", "among-others"])
def test_double_free_is_found(second: tuple[int, ...]) -> None:
    pool = PageAllocator(4)
    pool.alloc(4)
    pool.free(pages(1), state=OWNED)
    with pytest.raises(AssertionError, match=r"\[1\] are not owned but \['free'\]"):
        pool.free(pages(*second), state=OWNED)


def test_a_page_named_twice_is_found() -> None:
    pool = PageAllocator(4)
    pool.alloc(4)
    with pytest.raises(AssertionError, match="named twice"):
        pool.free(pages(2, 3, 2), state=OWNED)


def test_locked_pages_are_neither_freed_nor_reclaimed() -> None:
    pool = PageAllocator(4)
    held = pool.alloc(2)
    pool.cache(held)
    pool.lock(held)
    pool.lock(held[:1])
    pool.unlock(held)
    assert pool.num_locked == 1
    with pytest.raises(AssertionError, match="a locked page is freed"):
        pool.free(held, state=CACHED)
    with pytest.raises(AssertionError, match="a locked page is taken"):
        pool.reclaim(held)
    pool.unlock(held[:1])
    pool.reclaim(held)
    assert (pool.num_owned, pool.num_cached, pool.num_locked) == (2, 0, 0)
    with pytest.raises(AssertionError, match="unlocked more often"):
        pool.unlock(held)
