"""The work list over shared prefixes: every row meets every shared key once, within bounds."""

import numpy as np
import pytest

from tupelo.batch import PrefixGroups
from tupelo.triton.shared_work import HEADER, ITEM, ROW, WorkSize, list_work


def groups_of(*pairs: tuple[int, int]) -> PrefixGroups:
    """Groups of so many rows that share so many tokens."""
    starts = np.cumsum([0, *(rows for rows, _ in pairs)])
    shared = np.array([tokens for _, tokens in pairs], np.int32)
    return PrefixGroups(starts.astype(np.int32), shared)


def check(size: WorkSize, groups: PrefixGroups) -> int:
    """Prove a list by walking it as the kernels do; returns its items."""
    ints = list_work(size, groups)
    assert len(ints) == size.num_ints
    count = int(ints[0])
    assert count <= size.max_items
    items = ints[HEADER : HEADER + ITEM * count].reshape(count, ITEM).tolist()
    rows = ints[HEADER + ITEM * size.max_items :].reshape(size.num_rows, ROW).tolist()
    seen: dict[tuple[int, int], int] = {}  # part and its row -> keys, of an item
    for first, num_rows, start, end, part in items:
        assert 1 <= num_rows <= size.tile_rows
        assert start < end
        assert start % 64 == 0
        for i in range(num_rows):
            assert (part + i, first + i) not in seen
            seen[part + i, first + i] = end - start
            assert start == 0 or end - start >= 1
    assert len({part for part, _ in seen}) == len(seen), "two rows share a part"
    assert max((part for part, _ in seen), default=0) < size.max_parts
    for group, (first, end) in enumerate(
        zip(groups.row_starts[:-1], groups.row_starts[1:], strict=True)
    ):
        for row in range(first, end):
            shared, part, distance, parts = rows[row]
            assert shared == groups.shared_tokens[group]
            found = [seen.pop((part + i * distance, row)) for i in range(parts)]
            assert sum(found) == shared
    assert not seen, "parts that no row asks for"
    assert all(row == [0] * ROW for row in rows[groups.row_starts[-1] :])
    return count


SIZE = WorkSize(num_rows=512, num_kv_heads=8, tile_rows=16, programs=264, min_keys=128)


def test_groups_that_fill_the_device_are_not_split() -> None:
    assert check(SIZE, groups_of(*[(16, 2048)] * 32)) == 32


def test_one_group_is_split_for_all_programs() -> None:
    assert check(SIZE, groups_of((16, 2048))) == 16  # 128 keys each


def test_a_long_prefix_is_cut_finer_than_short_ones() -> None:
    assert check(SIZE, groups_of((2, 4096), (2, 64), (40, 256))) > 8


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("heads", "tile_rows"), [(1, 1), (8, 16), (2, 64)])
def test_random_groups(seed: int, heads: int, tile_rows: int) -> None:
    random = np.random.default_rng(seed)
    pairs = []
    while sum(rows for rows, _ in pairs) < 300:
        pairs.append((int(random.integers(2, 60)), int(random.integers(1, 300)) * 16))
    size = WorkSize(
        num_rows=400,
        num_kv_heads=heads,
        tile_rows=tile_rows,
        programs=int(random.choice([8, 256, 1000])),
        min_keys=int(random.choice([16, 128])),
    )
    check(size, groups_of(*pairs))


def test_no_groups_are_an_empty_list() -> None:
    for groups in (None, PrefixGroups(np.zeros(1, np.int32), np.empty(0, np.int32))):
        assert not list_work(SIZE, groups).any()
