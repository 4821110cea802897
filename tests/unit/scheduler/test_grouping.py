"""Decode rows that share pages come as groups: the right ones, in any order of arrival."""

import random
from itertools import pairwise

import numpy as np
import pytest
from tests.unit.scheduler.paged_device import VOCAB, Driver, expected_tokens

from tupelo.batch import PrefixGroups
from tupelo.cache import Namespace
from tupelo.request import Request
from tupelo.scheduler import Entry, SchedulerConfig
from tupelo.scheduler.grouping import PrefixGrouper
from tupelo.scheduler.slots import SlotTable
from tupelo.specs import PageGroup

PAGE_SIZE = 4
FULL = (PageGroup(num_pages=512),)


def table_of(rows: dict[int, list[int]]) -> SlotTable:
    """Slots with these pages; every other column as after a start."""
    table = SlotTable(16, 1, PAGE_SIZE, 12)
    for slot, pages in rows.items():
        table.tables[0, slot, : len(pages)] = pages
        table.num_table_pages[slot] = len(pages)
    return table


def arranged(rows: dict[int, list[int]], worth: int = 1) -> tuple[list[int], list[list[int]]]:
    """The order of the slots, and each group as its slots and its shared tokens."""
    slots = np.array(sorted(rows), np.int32)
    order, groups = PrefixGrouper(table_of(rows), FULL, worth).arrange(slots)
    assert sorted(order.tolist()) == sorted(rows)
    assert order.dtype == np.int32
    if groups is None:
        return order.tolist(), []
    spans = zip(pairwise(groups.row_starts.tolist()), groups.shared_tokens.tolist(), strict=True)
    return order.tolist(), [[*order[a:b].tolist(), shared] for (a, b), shared in spans]


def test_rows_of_equal_first_pages_are_groups_and_come_first() -> None:
    rows = {0: [9, 8], 1: [1, 2, 3], 2: [5, 6, 7], 3: [1, 2, 4], 5: [5, 6, 11], 7: [1, 2, 12]}
    order, groups = arranged(rows)
    assert groups == [[1, 3, 7, 2 * PAGE_SIZE], [2, 5, 2 * PAGE_SIZE]]
    assert order == [1, 3, 7, 2, 5, 0]


@pytest.mark.parametrize(
    "rows",
    [
        {0: [1, 2], 1: [3, 4], 2: [5]},
        {0: [1, 2], 1: [3, 2]},  # the same page, but after a different one
        {0: [1, 2]},
        {},
    ],
    ids=["nothing", "later_pages", "one_row", "no_row"],
)
def test_rows_that_share_no_first_page_stay_as_they_are(rows: dict[int, list[int]]) -> None:
    assert arranged(rows) == (sorted(rows), [])


def test_what_a_former_request_left_in_a_table_is_not_shared() -> None:
    rows = {0: [1, 2, 3], 1: [1, 2, 3]}
    table = table_of(rows)
    table.num_table_pages[1] = 1
    _, groups = PrefixGrouper(table, FULL, 1).arrange(np.array([0, 1], np.int32))
    assert groups is not None
    assert groups.shared_tokens.tolist() == [PAGE_SIZE]


def test_groups_that_spare_too_little_are_not_named() -> None:
    rows = {slot: [1, 2, 10 + slot] for slot in range(4)}
    assert arranged(rows, worth=3 * 2 * PAGE_SIZE)[1] == [[0, 1, 2, 3, 2 * PAGE_SIZE]]
    assert arranged(rows, worth=3 * 2 * PAGE_SIZE + 1)[1] == []


def test_a_small_group_beside_a_large_one_is_left_out() -> None:
    rows = {slot: [*range(1, 10), 20 + slot] for slot in range(8)}
    rows |= {8: [50, 51], 9: [50, 52]}
    worth = 32 * 2 * PAGE_SIZE  # two pages are the least that a group may share
    rows |= {10 + i: [*range(60, 69), 80 + i] for i in range(2)}
    assert [len(g) - 1 for g in arranged(rows, worth)[1]] == [8, 2]


def test_tables_too_short_for_any_group_are_left_alone() -> None:
    rows = {slot: [1, 2, 3] for slot in range(3)}
    assert arranged(rows, worth=32 * 12 * PAGE_SIZE)[1] == []
    assert arranged(rows, worth=32 * 13 * PAGE_SIZE)[1] == []


@pytest.mark.parametrize("groups", [(), (PageGroup(num_pages=9, window=5),)], ids=str)
def test_models_without_full_attention_have_no_groups(groups: tuple[PageGroup, ...]) -> None:
    slots = np.array([0, 1], np.int32)
    table = SlotTable(4, len(groups), PAGE_SIZE, 3)
    assert PrefixGrouper(table, groups, 1).arrange(slots) == (slots, None)


def test_of_nested_groups_those_that_spare_more_are_taken() -> None:
    wide = {slot: [1, 2, 20 + slot] for slot in range(6)} | {6: [1, 2, 7, 50], 7: [1, 2, 7, 51]}
    assert arranged(wide)[1] == [[6, 7, 0, 1, 2, 3, 4, 5, 2 * PAGE_SIZE]]
    deep = {
        slot: [1, *range(100 * (1 + slot // 3), 100 * (1 + slot // 3) + 7), 50 + slot]
        for slot in range(6)
    }
    assert arranged(deep)[1] == [[0, 1, 2, 8 * PAGE_SIZE], [3, 4, 5, 8 * PAGE_SIZE]]


def brute_force(rows: list[list[int]]) -> int:
    """Most page reads that disjoint groups over a prefix tree can spare."""
    best = 0
    for pages in range(1, 13):
        heads = {tuple(r[:pages]) for r in rows if len(r) >= pages}
        if len(heads) == 1 and all(len(r) >= pages for r in rows):
            best = max(best, (len(rows) - 1) * pages)
    parts: dict[int, list[list[int]]] = {}
    for row in rows:
        if row:
            parts.setdefault(row[0], []).append(row[1:])
    return best if len(parts) < 1 or len(rows) < 2 else max(best, _apart(rows))


def _apart(rows: list[list[int]]) -> int:
    depth = 0
    while all(len(r) > depth for r in rows) and len({r[depth] for r in rows}) == 1:
        depth += 1
    parts: dict[int, list[list[int]]] = {}
    for row in rows:
        if len(row) > depth:
            parts.setdefault(row[depth], []).append(row)
    return sum(brute_force(part) for part in parts.values() if len(part) > 1)


@pytest.mark.parametrize("seed", range(30))
def test_groups_of_random_trees_spare_the_most_reads(seed: int) -> None:
    rng = random.Random(seed)
    rows: dict[int, list[int]] = {}
    page = 0
    for slot in range(rng.randrange(2, 12)):
        parent = rng.choice(list(rows.values())) if rows and rng.random() < 0.8 else []
        shared = parent[: rng.randrange(len(parent) + 1)]
        own = list(range(page + 1, page + 2 + rng.randrange(3)))
        page = own[-1]
        rows[slot] = (shared + own)[:12]
    _, groups = arranged(rows)
    spared = sum((len(g) - 2) * g[-1] for g in groups) // PAGE_SIZE
    assert spared == brute_force(list(rows.values()))


def test_nothing_is_looked_at_again_until_a_slot_changes_hands() -> None:
    table = table_of({0: [1, 2], 1: [1, 3]})
    grouper = PrefixGrouper(table, FULL, 1)
    slots = np.array([0, 1], np.int32)
    first = grouper.arrange(slots)
    assert grouper.arrange(slots.copy()) is first
    table.tables[0, 1, 0] = 9
    request = Request(rid="r", input_ids=(1, 2))
    entry = Entry(
        request=request, namespace=Namespace(), seed=0, stop_ids=frozenset(), max_new_tokens=1
    )
    table.take(entry)
    assert grouper.arrange(slots)[1] is None


def config(**options: object) -> SchedulerConfig:
    values: dict[str, object] = {
        "groups": (PageGroup(num_pages=512),),
        "page_size": PAGE_SIZE,
        "context_length": 512,
        "max_running": 16,
        "chunk_tokens": 64,
        "same_step_sharing": True,
        "worth_waiting_tokens": PAGE_SIZE,
        "prefix_group_tokens": 1,
    }
    return SchedulerConfig(**(values | options))  # type: ignore[arg-type]


def prompts(order: str) -> list[list[int]]:
    """Three prefixes, four requests each, group by group or in turn."""
    rng = random.Random(0)
    heads = [[rng.randrange(VOCAB) for _ in range(24)] for _ in range(3)]
    made = [head + [rng.randrange(VOCAB) for _ in range(3)] for head in heads for _ in range(4)]
    return made if order == "grouped" else [made[4 * (i % 3) + i // 3] for i in range(12)]


def run(settings: SchedulerConfig, order: str, depth: int) -> tuple[Driver, list[PrefixGroups]]:
    """The burst, to its end; groups of every step."""
    driver = Driver(settings, depth)
    seen: list[PrefixGroups] = []
    schedule = driver.scheduler.schedule

    def watched() -> object:
        step = schedule()
        if step is not None and step.batch.prefix_groups is not None:
            seen.append(step.batch.prefix_groups)
        return step

    driver.scheduler.schedule = watched  # type: ignore[method-assign, assignment]
    for i, ids in enumerate(prompts(order)):
        driver.submit(f"r{i}", ids, max_new_tokens=6 + i % 3, ignore_eos=True)
    driver.run()
    for i, ids in enumerate(prompts(order)):
        assert driver.tokens(f"r{i}") == expected_tokens(ids, 6 + i % 3)
    return driver, seen


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("order", ["grouped", "interleaved"])
def test_a_burst_decodes_in_groups_whatever_its_order(order: str, depth: int) -> None:
    driver, seen = run(config(), order, depth)
    assert driver.device.num_grouped == len(seen) > 4
    full = [groups for groups in seen if groups.row_starts.tolist() == [0, 4, 8, 12]]
    assert full
    assert full[0].shared_tokens.tolist() == [24, 24, 24]


def test_without_the_capability_nothing_is_named() -> None:
    assert run(config(prefix_group_tokens=0), "grouped", 1)[1] == []


def test_without_the_prefix_cache_nothing_is_shared() -> None:
    assert run(config(radix=False), "grouped", 1)[1] == []


@pytest.mark.parametrize("windows", [(None, 9), (9, None), (9,)], ids=str)
def test_windows_do_not_disturb_groups(windows: tuple[int | None, ...]) -> None:
    groups = tuple(PageGroup(num_pages=512, window=w) for w in windows)
    driver = Driver(config(groups=groups), 2)
    for i, ids in enumerate(prompts("interleaved")):
        driver.submit(f"r{i}", ids, max_new_tokens=8, ignore_eos=True)
    driver.run()
    assert (driver.device.num_grouped > 0) == (None in windows)


@pytest.mark.parametrize("depth", [1, 2])
def test_retraction_and_aborts_leave_right_groups(depth: int) -> None:
    """Too few pages for all rows: some are taken back, come again, and join their group."""
    driver = Driver(config(groups=(PageGroup(num_pages=44),)), depth)
    driver.scheduler._estimate.ratio = driver.scheduler._estimate._floor = 0.0  # admit too many
    wanted = prompts("interleaved")
    for i, ids in enumerate(wanted):
        driver.submit(f"r{i}", ids, max_new_tokens=20, ignore_eos=True)
    for _ in range(6):
        driver.step()
    driver.abort(["r3", "r4"])
    driver.run()
    assert driver.scheduler.counters.retractions > 0
    assert driver.device.num_grouped > 0
    for i, ids in enumerate(wanted):
        if i not in (3, 4):
            assert driver.tokens(f"r{i}") == expected_tokens(ids, 20)
