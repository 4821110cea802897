"""The prefix cache by example: one full page group, pages of four tokens."""

import numpy as np
import pytest

from tupelo.cache import Lease, Namespace, PrefixCache
from tupelo.errors import ConfigError
from tupelo.specs import PageGroup

PAGE = 4
HOME = Namespace()


def tokens(*pages: str, tail: str = "") -> np.ndarray:
    """Ids of pages spelled as letters: ``tokens("a", "b")`` is aaaabbbb."""
    return np.array([ord(letter) for letter in "".join(p * PAGE for p in pages) + tail])


def make(num_pages: int = 16, *, eviction: str = "lru", enabled: bool = True) -> PrefixCache:
    return PrefixCache([PageGroup(num_pages=num_pages)], PAGE, eviction=eviction, enabled=enabled)


def serve(cache: PrefixCache, ids: np.ndarray, namespace: Namespace = HOME) -> Lease:
    """Open a lease for ``ids``, and compute and publish all of it."""
    lease = cache.open(namespace, ids, max_tokens=len(ids) - 1)
    assert cache.extend(lease, len(ids))
    cache.publish(lease, ids, len(ids))
    cache.check([lease, *others(cache, lease)])
    return lease


def others(cache: PrefixCache, lease: Lease) -> list[Lease]:
    return [peer for peer in cache._core.leases if peer is not lease]


def test_second_request_shares_whole_pages_of_the_first() -> None:
    cache = make()
    first = serve(cache, tokens("a", "b", "c", tail="xy"))
    second = cache.open(HOME, tokens("a", "b", "d"), max_tokens=11)
    assert second.num_cached_tokens == 2 * PAGE
    assert second.pages().tolist() == first.pages()[:2].tolist()
    cache.check([first, second])


def test_match_leaves_the_last_prompt_token_to_compute() -> None:
    cache = make()
    serve(cache, tokens("a", "b"))
    assert cache.match_length(HOME, tokens("a", "b")) == 8
    assert cache.open(HOME, tokens("a", "b"), max_tokens=7).num_cached_tokens == 4


def test_free_owned_and_cached_add_up_through_a_request() -> None:
    cache = make(10)
    ids = tokens("a", "b", tail="x")
    lease = cache.open(HOME, ids, max_tokens=8)
    assert cache.extend(lease, 9)
    group = cache.stats().groups[0]
    assert (group.free, group.owned, group.cached) == (7, 3, 0)
    cache.publish(lease, ids, 9)
    group = cache.stats().groups[0]
    assert (group.free, group.owned, group.cached, group.available) == (7, 1, 2, 7)
    cache.close(lease)
    group = cache.stats().groups[0]
    assert (group.free, group.owned, group.cached, group.available) == (8, 0, 2, 10)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Namespace("", ""), Namespace("tenant", "")),
        (Namespace("a/b", "c"), Namespace("a", "b/c")),
        (Namespace("a\x00", "b"), Namespace("a", "\x00b")),
        (Namespace("x" * 10_000, ""), Namespace("x" * 10_001, "")),
        (Namespace("\r\n\ud800", ""), Namespace("\r\n", "")),
        (Namespace("", "lora"), Namespace("lora", "")),
    ],
    ids=["salted", "slash", "nul", "long", "control", "adapter-or-salt"],
)
def test_namespaces_share_nothing(one: Namespace, other: Namespace) -> None:
    cache = make()
    ids = tokens("a", "b")
    lease = serve(cache, ids, one)
    cache.claim(lease, tokens("a", "b", "c"), 12)
    assert cache.match_length(one, ids) == 8
    assert cache.match_length(other, ids) == 0
    assert cache.owner_of_next_page(other, tokens("a", "b", "c"), 8) is None
    assert cache.owner_of_next_page(other, tokens("a", "b", "c"), 0) is None


def test_equal_pages_computed_twice_stay_with_their_lease() -> None:
    cache = make()
    ids = tokens("a", "b", tail="x")
    leases = [cache.open(HOME, ids, max_tokens=8) for _ in range(2)]
    for lease in leases:
        assert cache.extend(lease, len(ids))
        cache.publish(lease, ids, len(ids))
    assert not set(leases[0].pages().tolist()) & set(leases[1].pages().tolist())
    assert cache.cached_pages().tolist() == sorted(leases[0].pages()[:2].tolist())
    cache.check(leases)
    cache.close(leases[1])
    assert cache.stats().groups[0].owned == 1
    cache.check(leases[:1])


def test_least_recently_used_leaf_goes_first_and_ends_go_before_beginnings() -> None:
    cache = make(6)
    for name in ("a", "b"):
        cache.close(serve(cache, tokens("s", name, name)))
    assert cache.stats().groups[0].free == 1
    cache.close(cache.open(HOME, tokens("s", "a", "a"), max_tokens=12))
    lease = cache.open(Namespace("new"), tokens("z", "z"), max_tokens=7)
    assert cache.extend(lease, 8)
    assert cache.match_length(HOME, tokens("s", "b", "b")) == 8
    assert cache.match_length(HOME, tokens("s", "a", "a")) == 12
    assert cache.extend(lease, 16)
    assert cache.match_length(HOME, tokens("s", "b", "b")) == 4
    assert cache.match_length(HOME, tokens("s", "a", "a")) == 8
    cache.check([lease])


def test_lfu_keeps_what_is_matched_often() -> None:
    lengths = {}
    for eviction in ("lru", "lfu"):
        cache = make(4, eviction=eviction)
        cache.close(serve(cache, tokens("a", "a")))
        for _ in range(3):
            cache.close(cache.open(HOME, tokens("a", "a"), max_tokens=8))
        cache.close(serve(cache, tokens("b", "b")))
        lease = cache.open(HOME, tokens("c"), max_tokens=3)
        assert cache.extend(lease, 4)
        lengths[eviction] = [cache.match_length(HOME, tokens(x, x)) for x in "ab"]
    assert lengths == {"lru": [4, 8], "lfu": [8, 4]}


def test_extend_without_room_changes_nothing() -> None:
    cache = make(4)
    cache.close(serve(cache, tokens("a", "b")))
    lease = cache.open(HOME, tokens("a", "c"), max_tokens=7)
    before = cache.stats()
    assert not cache.extend(lease, 5 * PAGE)
    assert not cache.extend_many([lease], [5 * PAGE])
    assert cache.stats() == before
    assert lease.num_pages == 1
    assert cache.extend(lease, 4 * PAGE)
    assert cache.stats().groups[0].evicted == 1
    cache.check([lease])


def test_extend_many_gives_each_row_its_own_pages() -> None:
    cache = make(8)
    leases = [cache.open(HOME, tokens("a"), max_tokens=3) for _ in range(3)]
    assert cache.extend_many(leases, [4, 5, 12])
    assert [lease.num_pages for lease in leases] == [1, 2, 3]
    assert len({page for lease in leases for page in lease.pages().tolist()}) == 6
    assert not cache.extend_many(leases, [8, 8, 20])
    assert [lease.num_pages for lease in leases] == [1, 2, 3]
    cache.check(leases)


def test_pages_generated_one_by_one_do_not_make_a_chain_of_nodes() -> None:
    cache = make(64)
    ids = np.arange(200)
    lease = cache.open(HOME, ids[:4], max_tokens=3)
    for length in range(4, 201, 4):
        assert cache.extend(lease, length)
        cache.publish(lease, ids[:length], length)
    assert cache.stats().num_nodes == 1
    assert cache.match_length(HOME, ids) == 200
    cache.check([lease])


def test_a_cache_of_no_groups_keeps_leases_and_nothing_else() -> None:
    cache = PrefixCache((), 4, enabled=False)
    ids = np.arange(20)
    lease = cache.open(Namespace("", ""), ids, max_tokens=20)
    assert cache.extend(lease, 20)
    cache.publish(lease, ids, 20)
    cache.check([lease])
    assert cache.match_length(Namespace("", ""), ids) == 0
    assert cache.stats().groups == ()
    assert not cache.flush()
    cache.close(lease)
    cache.check([])
    assert cache.flush()
    with pytest.raises(ConfigError, match="at least one page group"):
        PrefixCache((), 4)
