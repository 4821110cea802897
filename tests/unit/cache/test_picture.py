"""What an onlooker sees of the prefix tree: its shape, never its tokens, and no more than asked."""

import numpy as np

from tupelo.cache import Namespace, Picture, PrefixCache
from tupelo.specs import PageGroup

PAGE = 4


def compute(cache: PrefixCache, pages: str, salt: str = "", *, close: bool = True) -> None:
    """Serve a prompt whose pages are these letters."""
    ids = np.repeat(np.frombuffer(pages.encode(), dtype=np.uint8), PAGE).astype(np.int64)
    lease = cache.open(Namespace(salt), ids, max_tokens=len(ids) - 1)
    assert cache.extend(lease, len(ids))
    cache.publish(lease, ids, len(ids))
    if close:
        cache.close(lease)


def shape(picture: Picture) -> set[tuple[int, int]]:
    return {(node.start, node.pages) for node in picture.nodes}


def test_it_shows_where_prompts_part() -> None:
    cache = PrefixCache([PageGroup(num_pages=32)], PAGE)
    compute(cache, "abcd")
    (single,) = cache.picture(limit=9).nodes
    assert (single.start, single.pages, single.parent) == (0, 4, 0)
    compute(cache, "abxyz", close=False)
    picture = cache.picture(limit=9)
    assert shape(picture) == {(0, 2), (2, 2), (2, 3)}
    upper, *lower = picture.nodes
    assert {node.parent for node in lower} == {upper.serial}
    assert single.serial in {node.serial for node in lower}, "what is cut keeps its number"
    used = {(node.start, node.pages) for node in picture.nodes if node.locks}
    assert used == {(0, 2), (2, 3)}
    ages = {node.pages: node.age for node in lower}
    assert ages[3] < ages[2], "what has just been used is younger"


def test_eviction_takes_boxes_away() -> None:
    cache = PrefixCache([PageGroup(num_pages=8)], PAGE)
    compute(cache, "abcd")
    compute(cache, "efgh")
    old = {node.serial for node in cache.picture(limit=9).nodes}
    compute(cache, "ijkl")
    left = {node.serial for node in cache.picture(limit=9).nodes}
    assert len(old - left) == 1
    assert cache.stats().groups[0].evicted == 4


def test_it_stays_small_and_says_what_it_leaves_out() -> None:
    cache = PrefixCache([PageGroup(num_pages=400)], PAGE)
    for number in range(90):
        compute(cache, f"\x01{chr(33 + number)}")
    picture = cache.picture(limit=10)
    assert len(picture.nodes) == 10
    assert picture.num_nodes == 91
    assert picture.nodes[0].hidden == 81
    assert all(node.age < 40 for node in picture.nodes[1:]), "the newest are shown"
    many = PrefixCache([PageGroup(num_pages=400)], PAGE)
    for number in range(50):
        compute(many, f"{chr(33 + number)}")
    picture = many.picture(limit=10)
    assert (len(picture.nodes), picture.hidden) == (10, 40)


def test_a_salt_sees_its_own_branch() -> None:
    cache = PrefixCache([PageGroup(num_pages=32)], PAGE)
    compute(cache, "abcd", "mine")
    compute(cache, "xy", "yours")
    assert shape(cache.picture(limit=9)) == {(0, 4), (0, 2)}
    assert shape(cache.picture(limit=9, salt="mine")) == {(0, 4)}
    assert cache.picture(limit=9, salt="nobody's").nodes == []
