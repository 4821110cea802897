"""Requests that arrive together: claims, waiting, late matches, withdrawal; and the odd corners."""

from collections.abc import Callable

import numpy as np
import pytest

from tupelo.cache import ABSENT, Namespace, PrefixCache, frontier, radix
from tupelo.errors import ConfigError
from tupelo.specs import PageGroup

PAGE = 4
HOME = Namespace()


def tokens(pages: str) -> np.ndarray:
    """Each letter is one page."""
    return np.repeat(np.frombuffer(pages.encode(), dtype=np.uint8), PAGE).astype(np.int64)


def make(num_pages: int = 32, *, window: int | None = None, enabled: bool = True) -> PrefixCache:
    groups = [PageGroup(num_pages=num_pages)]
    if window is not None:
        groups.append(PageGroup(num_pages=num_pages, window=window))
    return PrefixCache(groups, PAGE, enabled=enabled)


def test_a_waiter_follows_the_owner_chunk_by_chunk() -> None:
    cache = make()
    owner = cache.open(HOME, tokens("abcde"), max_tokens=19)
    cache.claim(owner, tokens("abcde"), 20)
    prompt = tokens("abcdz")
    found = cache.owner_of_next_page(HOME, prompt, 0)
    assert found is not None
    assert (found.owner, found.shared_tokens) == (owner, 16)
    assert cache.extend(owner, 8)
    cache.publish(owner, tokens("abcde"), 8)

    waiter = cache.open(HOME, prompt, max_tokens=19)
    assert waiter.num_cached_tokens == 8
    found = cache.owner_of_next_page(HOME, prompt, 8, waiter=waiter)
    assert found is not None
    assert (found.owner, found.shared_tokens) == (owner, 8)
    assert cache.extend(owner, 20)
    cache.publish(owner, tokens("abcde"), 20)
    assert cache.owner_of_next_page(HOME, prompt, 8, waiter=waiter) is None
    assert cache.rematch(waiter, prompt, max_tokens=19) == 8
    assert waiter.num_cached_tokens == 16
    assert waiter.pages().tolist() == owner.pages()[:4].tolist()
    cache.check([owner, waiter])


def test_the_next_one_takes_over_when_the_owner_goes() -> None:
    cache = make()
    ids = tokens("abc")
    leases = [cache.open(HOME, ids, max_tokens=11) for _ in range(3)]
    for lease in leases:
        cache.claim(lease, ids, 12)

    def owner_for(lease_index: int) -> object:
        found = cache.owner_of_next_page(HOME, ids, 0, waiter=leases[lease_index])
        return None if found is None else leases.index(found.owner)

    assert [owner_for(index) for index in range(3)] == [None, 0, 0]
    cache.close(leases[0])
    assert [owner_for(index) for index in (1, 2)] == [None, 1]
    cache.unclaim(leases[1])
    assert owner_for(2) is None


def test_an_owner_behind_the_match_is_found() -> None:
    cache = make()
    ids = tokens("abcdef")
    owner = cache.open(HOME, ids, max_tokens=23)
    cache.claim(owner, ids, 24)
    other = cache.open(HOME, tokens("abc"), max_tokens=11)
    assert cache.extend(other, 12)
    cache.publish(other, tokens("abc"), 12)
    found = cache.owner_of_next_page(HOME, ids, 12)
    assert found is not None
    assert (found.owner, found.shared_tokens) == (owner, 12)
    assert cache.rematch(owner, ids, max_tokens=23) == 12
    found = cache.owner_of_next_page(HOME, ids, 12)
    assert found is not None
    assert found.shared_tokens == 12


def test_rematch_leaves_pages_of_its_own_alone() -> None:
    cache = make()
    slow, fast = (cache.open(HOME, tokens("ab"), max_tokens=7) for _ in range(2))
    assert cache.extend(slow, 3)
    assert cache.extend(fast, 8)
    cache.publish(fast, tokens("ab"), 8)
    assert cache.rematch(slow, tokens("ab"), max_tokens=7) == 0
    cache.check([slow, fast])


def test_withdraw_returns_pages_and_names_those_who_read_them() -> None:
    cache = make()
    giver = cache.open(HOME, tokens("abcd"), max_tokens=15)
    assert cache.extend(giver, 16)
    cache.publish(giver, tokens("abcd"), 16)
    before = cache.open(HOME, tokens("abxx"), max_tokens=15)
    reader = cache.open(HOME, tokens("abcx"), max_tokens=15)
    assert cache.extend(reader, 16)
    cache.publish(reader, tokens("abcx"), 16)

    assert cache.withdraw(giver, 9) == [reader]
    assert cache.match_length(HOME, tokens("abcd")) == 8
    assert cache.match_length(HOME, tokens("abcx")) == 8
    assert giver.num_pages == 4
    assert reader.lost
    assert not before.lost
    assert reader.num_pages == 2
    cache.check([giver, before, reader])
    cache.close(reader)
    cache.publish(giver, tokens("abcd"), 16)
    assert cache.match_length(HOME, tokens("abcd")) == 16
    cache.check([giver, before])


def test_withdraw_spares_a_lease_with_copies_of_its_own() -> None:
    cache = make()
    giver, twin = (cache.open(HOME, tokens("abc"), max_tokens=11) for _ in range(2))
    for lease, pages in ((giver, "ab"), (twin, "abc")):
        ids = tokens(pages)
        assert cache.extend(lease, len(ids))
        cache.publish(lease, ids, len(ids))
    assert cache.withdraw(giver, 0) == []
    assert cache.match_length(HOME, tokens("abc")) == 0
    cache.check([giver, twin])
    cache.publish(twin, tokens("abc"), 12)
    assert cache.match_length(HOME, tokens("abc")) == 12
    cache.check([giver, twin])


def test_a_window_group_must_still_hold_the_last_window() -> None:
    cache = make(window=6)  # At a page's end, 5 earlier tokens are visible: two pages.
    lease = cache.open(HOME, tokens("abcdef"), max_tokens=23)
    assert cache.extend(lease, 24)
    assert cache.release_window(lease, 16) == [(0, 0), (0, 2)]
    assert (lease.pages(1)[:2] == ABSENT).all()
    cache.publish(lease, tokens("abcdef"), 24)
    matches = {n: cache.match_length(HOME, tokens("abcdef")[: n * PAGE]) // PAGE for n in range(7)}
    assert matches == {0: 0, 1: 0, 2: 0, 3: 0, 4: 4, 5: 5, 6: 6}
    reader = cache.open(HOME, tokens("abcdef"), max_tokens=23)
    assert reader.pages(1).tolist() == [ABSENT, ABSENT, ABSENT, *lease.pages(1)[3:5].tolist()]
    cache.check([lease, reader])


def test_window_pages_are_evicted_alone_and_mended_by_the_next_who_computes_them() -> None:
    cache = PrefixCache([PageGroup(num_pages=32), PageGroup(num_pages=8, window=5)], PAGE)
    ids = tokens("abcdef")

    def serve() -> None:
        lease = cache.open(HOME, ids, max_tokens=23)
        assert cache.extend(lease, 24)
        cache.publish(lease, ids, 24)
        cache.check([lease])
        cache.close(lease)

    serve()
    other = cache.open(HOME, tokens("xyz"), max_tokens=11)
    assert cache.extend(other, 12)
    full, window = cache.stats().groups
    assert (full.evicted, window.evicted) == (0, 1)
    assert cache.match_length(HOME, ids) == 24  # The end keeps its window; the front went.
    assert cache.extend(other, 32)
    assert cache.match_length(HOME, ids) == 0
    cache.close(other)
    serve()
    assert cache.match_length(HOME, ids) == 24
    cache.check([])


def test_a_cache_of_windows_alone_sheds_nodes_that_hold_nothing() -> None:
    cache = PrefixCache([PageGroup(num_pages=4, window=8)], PAGE)
    for name in "abcdefgh":
        lease = cache.open(Namespace(name), tokens("abc"), max_tokens=11)
        assert cache.extend(lease, 12)
        cache.publish(lease, tokens("abc"), 12)
        cache.check([lease])
        cache.close(lease)
    assert cache.stats().num_nodes <= 2
    assert cache.match_length(Namespace("h"), tokens("abc")) == 12
    cache.check([])


@pytest.mark.parametrize("window", [None, 6])
def test_forced_hash_collisions_change_no_result(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Colliding(bytes):
        def __hash__(self) -> int:
            return 7

    original: Callable[[np.ndarray], bytes] = radix.page_key
    for module in (radix, frontier):
        monkeypatch.setattr(module, "page_key", lambda page: Colliding(original(page)))
    cache = make(64, window=window)
    prompts = ["abc", "abd", "bca", "cab", "xyz", "aab"]
    leases = []
    for prompt in prompts:
        lease = cache.open(HOME, tokens(prompt), max_tokens=11)
        cache.claim(lease, tokens(prompt), 12)
        assert cache.extend(lease, 12)
        cache.publish(lease, tokens(prompt), 12)
        leases.append(lease)
    assert leases[1].num_cached_tokens == 8
    assert [lease.num_cached_tokens for lease in leases[2:]] == [0, 0, 0, 4]
    for prompt in prompts:
        assert cache.match_length(HOME, tokens(prompt)) == 12
    assert cache.match_length(HOME, tokens("cba")) == 4
    assert cache.owner_of_next_page(HOME, tokens("zzz"), 0) is None
    cache.check(leases)


def test_disabled_cache_keeps_books_and_shares_nothing() -> None:
    cache = make(enabled=False, window=4)
    leases = []
    for _ in range(2):
        lease = cache.open(HOME, tokens("abc"), max_tokens=11)
        cache.claim(lease, tokens("abc"), 12)
        assert cache.owner_of_next_page(HOME, tokens("abc"), 0) is None
        assert cache.extend(lease, 12)
        cache.publish(lease, tokens("abc"), 12)
        leases.append(lease)
    assert cache.match_length(HOME, tokens("abc")) == 0
    assert cache.withdraw(leases[0], 0) == []
    assert cache.release_window(leases[0], 12) == [(0, 0), (0, 2)]
    cache.check(leases)
    for lease in leases:
        cache.close(lease)
    assert [group.free for group in cache.stats().groups] == [32, 32]
    assert cache.flush()


def test_flush_waits_for_open_leases() -> None:
    cache = make()
    lease = cache.open(HOME, tokens("abc"), max_tokens=11)
    assert cache.extend(lease, 12)
    cache.publish(lease, tokens("abc"), 12)
    assert not cache.flush()
    cache.close(lease)
    assert cache.flush()
    assert cache.match_length(HOME, tokens("abc")) == 0
    assert cache.stats().groups[0].free == 32
    cache.check([])


def test_salts_without_pages_leave_nothing_behind() -> None:
    cache = make()
    for number in range(50):
        cache.close(cache.open(Namespace(f"salt {number}"), tokens("a"), max_tokens=3))
    assert not cache._core.tree.roots


def test_weighted_order_runs_the_busiest_branch_first() -> None:
    cache = make()
    for prompt in ("ab", "cd"):
        lease = cache.open(HOME, tokens(prompt), max_tokens=7)
        assert cache.extend(lease, 8)
        cache.publish(lease, tokens(prompt), 8)
    waiting = ["ab", "zz", "cd", "cx", "cd", "ab", "cd"]
    order = cache.weighted_order([(HOME, tokens(prompt)) for prompt in waiting])
    assert [waiting[index] for index in order] == ["cd", "cx", "cd", "cd", "ab", "ab", "zz"]


@pytest.mark.parametrize(
    ("groups", "page_size", "eviction", "message"),
    [
        ([], 4, "lru", "at least one page group"),
        ([PageGroup(num_pages=4)], 0, "lru", "page_size is 0"),
        ([PageGroup(num_pages=4, window=0)], 4, "lru", "window 0"),
        ([PageGroup(num_pages=4)], 4, "fifo", "allowed: lfu, lru"),
    ],
    ids=["no-group", "page-size", "window", "policy"],
)
def test_settings_that_cannot_work_are_refused(
    groups: list[PageGroup], page_size: int, eviction: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrefixCache(groups, page_size, eviction=eviction)
