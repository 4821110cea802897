"""What the scheduler promises, seen on a device that stores tokens in pages."""

import random

import numpy as np
import pytest
from tests.unit.scheduler.paged_device import VOCAB, Driver, expected_tokens

from tupelo.errors import QueueFull
from tupelo.request import FinishReason
from tupelo.scheduler import SchedulerConfig
from tupelo.scheduler.policy import MAX_MATCHED
from tupelo.specs import PageGroup


def config(pages: int = 64, page_size: int = 4, **options: object) -> SchedulerConfig:
    values: dict[str, object] = {
        "groups": (PageGroup(num_pages=pages),),
        "page_size": page_size,
        "context_length": pages * page_size,
        "max_running": 8,
        "chunk_tokens": 16,
        "same_step_sharing": True,
        "worth_waiting_tokens": page_size,
    }
    return SchedulerConfig(**(values | options))  # type: ignore[arg-type]


def prompt(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCAB) for _ in range(length)]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("chunk", [0, 5, 16])
def test_tokens_are_those_of_the_model(depth: int, chunk: int) -> None:
    driver = Driver(config(chunk_tokens=chunk), depth)
    for i, length in enumerate((1, 3, 4, 17, 40)):
        driver.submit(f"r{i}", prompt(i, length), max_new_tokens=9 + i, ignore_eos=True)
    driver.run()
    for i, length in enumerate((1, 3, 4, 17, 40)):
        assert driver.tokens(f"r{i}") == expected_tokens(prompt(i, length), 9 + i)
        assert driver.ended[f"r{i}"].reason is FinishReason.LENGTH


@pytest.mark.parametrize("depth", [1, 2])
def test_a_stop_token_ends_a_request_and_its_surplus_token_is_dropped(depth: int) -> None:
    full = expected_tokens(prompt(1, 10), 30)
    stop = full[7]
    want = full[: full.index(stop) + 1]
    driver = Driver(config(), depth)
    driver.submit("a", prompt(1, 10), max_new_tokens=30, stop_token_ids=(stop,))
    driver.submit("b", prompt(2, 10), max_new_tokens=30, ignore_eos=True)
    driver.run()
    assert driver.tokens("a") == want
    assert driver.ended["a"].matched == stop
    assert driver.tokens("b") == expected_tokens(prompt(2, 10), 30)


def test_a_length_stop_launches_no_surplus_step() -> None:
    driver = Driver(config(), depth=2)
    driver.submit("a", prompt(1, 4), max_new_tokens=5, ignore_eos=True)
    driver.run()
    assert driver.num_steps == 5  # the prompt's step samples the first


def test_zero_new_tokens_is_a_prefill_only() -> None:
    driver = Driver(config(), depth=2)
    driver.submit("a", prompt(1, 40), max_new_tokens=0)
    driver.run()
    assert driver.tokens("a") == []
    assert driver.ended["a"].reason is FinishReason.LENGTH
    assert driver.device.prefilled == 40


def test_one_step_holds_decode_rows_and_prompt_chunks() -> None:
    driver = Driver(config())
    driver.submit("a", prompt(1, 4), max_new_tokens=20, ignore_eos=True)
    driver.step()
    driver.submit("b", prompt(2, 30), max_new_tokens=2, ignore_eos=True)
    step = driver.scheduler.schedule()
    assert step is not None
    assert step.batch.num_decode_rows == 1
    assert step.batch.num_rows == 2
    assert step.batch.num_samples == 1  # the chunk does not end its prompt


@pytest.mark.parametrize("same_step", [True, False])
@pytest.mark.parametrize("order", ["grouped", "interleaved"])
@pytest.mark.parametrize("policy", ["fcfs", "lpm", "dfs-weight"])
def test_a_shared_prefix_is_computed_once_in_a_cold_burst(
    same_step: bool, order: str, policy: str
) -> None:
    settings = config(
        pages=2048, max_running=64, chunk_tokens=64, same_step_sharing=same_step, policy=policy
    )
    driver = Driver(settings)
    prompts = [prompt(100 + g, 64) + prompt(1000 * g + i, 8) for g in range(4) for i in range(8)]
    if order == "interleaved":
        prompts = [prompts[8 * (i % 4) + i // 4] for i in range(32)]
    for i, ids in enumerate(prompts):
        driver.submit(f"r{i}", ids, max_new_tokens=3, ignore_eos=True)
    driver.run()
    unique = 4 * 64 + 32 * 8
    assert driver.device.prefilled <= 1.05 * unique
    for i, ids in enumerate(prompts):
        assert driver.tokens(f"r{i}") == expected_tokens(ids, 3)


def test_nothing_is_shared_across_salts_and_adapters() -> None:
    driver = Driver(config(pages=256))
    ids = prompt(5, 40)
    for i, names in enumerate(({}, {"salt": "x"}, {"adapter": "x"}, {"salt": "y"})):
        driver.submit(f"r{i}", ids, max_new_tokens=1, ignore_eos=True, **names)
    driver.run()
    assert driver.device.prefilled == 4 * 40


def test_when_the_owner_of_a_prefix_goes_the_next_takes_over() -> None:
    driver = Driver(config(pages=256))
    shared = prompt(1, 64)
    for i in range(3):
        driver.submit(f"r{i}", shared + prompt(10 + i, 4), max_new_tokens=2, ignore_eos=True)
    driver.step()
    driver.abort(["r0"])
    driver.run()
    assert driver.ended["r0"].reason is FinishReason.ABORT
    for i in (1, 2):
        assert driver.tokens(f"r{i}") == expected_tokens(shared + prompt(10 + i, 4), 2)
    assert driver.device.prefilled <= 64 + 3 * 4 + 4


def test_a_waiter_does_not_block_others() -> None:
    driver = Driver(config(pages=256, chunk_tokens=80, same_step_sharing=False))
    shared = prompt(1, 64)
    driver.submit("owner", [*shared, 1], max_new_tokens=1)
    driver.submit("waiter", [*shared, 2], max_new_tokens=1)
    driver.submit("other", prompt(2, 6), max_new_tokens=1)
    driver.step()
    assert driver.ended.keys() == {"owner", "other"}
    driver.run()
    assert driver.device.prefilled == 65 + 6 + 1


@pytest.mark.parametrize("depth", [1, 2])
def test_running_out_of_pages_retracts_and_changes_no_token(depth: int) -> None:
    driver = Driver(config(pages=24, chunk_tokens=0), depth)
    driver.scheduler._estimate.ratio = driver.scheduler._estimate._floor = 0.0  # admit too many
    for i in range(6):
        driver.submit(f"r{i}", prompt(i, 8), max_new_tokens=40, ignore_eos=True)
    driver.run()
    assert driver.scheduler.counters.retractions > 0
    for i in range(6):
        assert driver.tokens(f"r{i}") == expected_tokens(prompt(i, 8), 40)


def test_a_full_queue_is_refused() -> None:
    driver = Driver(config(max_queued=2, max_running=1))
    for i in range(3):
        driver.submit(f"r{i}", [1, 2, 3], max_new_tokens=1)
    with pytest.raises(QueueFull, match="limit is 2"):
        driver.submit("late", [1, 2, 3], max_new_tokens=1)
    driver.run()
    assert len(driver.ended) == 3


@pytest.mark.parametrize("phase", ["waiting", "prefill", "decode", "in flight"])
def test_abort_in_every_phase_returns_to_the_baseline(phase: str) -> None:
    driver = Driver(config(max_running=1, chunk_tokens=8), depth=2)
    if phase == "waiting":
        driver.submit("first", prompt(9, 4), max_new_tokens=30, ignore_eos=True)
        driver.step()
    driver.submit("a", prompt(1, 20), max_new_tokens=30, ignore_eos=True)
    steps = {"waiting": 0, "prefill": 1, "decode": 8, "in flight": 5}[phase]
    for _ in range(steps):
        driver.step()
    driver.abort(["a", "unknown"])
    driver.run()
    stats = driver.scheduler.cache.stats()
    assert driver.ended["a"].reason is FinishReason.ABORT
    assert (driver.scheduler.num_running, driver.scheduler.num_waiting) == (0, 0)
    assert stats.groups[0].owned == 0
    driver.abort(["a"])  # twice: nothing happens


def test_a_failed_step_ends_its_requests_and_leaves_no_uncomputed_page() -> None:
    driver = Driver(config(pages=256))
    shared = prompt(3, 32)
    driver.submit("a", shared, max_new_tokens=4, ignore_eos=True)
    step = driver.scheduler.schedule()
    assert step is not None
    ended = driver.scheduler.fail(step)
    assert [item.reason for item in ended] == [FinishReason.ERROR]
    driver.scheduler.check()
    driver.submit("b", shared, max_new_tokens=4, ignore_eos=True)
    driver.run()
    assert driver.tokens("b") == expected_tokens(shared, 4)


@pytest.mark.parametrize(
    ("policy", "first"),
    [("fcfs", "r0"), ("lof", "r1"), ("priority", "r2"), ("lpm", "r3")],
)
def test_policies_choose_who_starts(policy: str, first: str) -> None:
    driver = Driver(config(pages=256, policy=policy, max_running=1))
    warm = prompt(7, 16)
    driver.submit("warm", warm, max_new_tokens=1)
    driver.run()
    driver.submit("r0", prompt(1, 8), max_new_tokens=2)
    driver.submit("r1", prompt(2, 8), max_new_tokens=9)
    driver.submit("r2", prompt(3, 8), max_new_tokens=2, priority=5)
    driver.submit("r3", warm + prompt(4, 8), max_new_tokens=2)
    driver.step()
    assert driver.scheduler.slots.entries[0] is not None or first in driver.ended
    running = [e.rid for e in driver.scheduler.slots.running()] or list(driver.ended)
    assert first in running


@pytest.mark.parametrize("policy", ["lpm", "dfs-weight"])
def test_a_cached_prefix_is_found_behind_however_many_others(policy: str) -> None:
    driver = Driver(config(pages=256, policy=policy, max_running=1))
    warm = prompt(7, 16)
    driver.submit("warm", warm, max_new_tokens=1)
    driver.run()
    for i in range(2 * MAX_MATCHED):
        driver.submit(f"r{i}", prompt(100 + i, 8), max_new_tokens=2)
    driver.submit("last", warm + prompt(4, 8), max_new_tokens=2)
    driver.step()
    assert [e.rid for e in driver.scheduler.slots.running()] == ["last"]


@pytest.mark.parametrize("policy", ["lpm", "dfs-weight"])
def test_groups_that_arrive_in_turn_run_group_by_group(policy: str) -> None:
    """With fewer slots than requests, rows that run together share a prefix."""
    settings = config(pages=2048, max_running=12, chunk_tokens=72, policy=policy)
    driver = Driver(settings)
    for i in range(4):
        for group in range(8):
            ids = prompt(100 + group, 40) + prompt(1000 * group + i, 8)
            driver.submit(f"{group}.{i}", ids, max_new_tokens=20, ignore_eos=True)
    most = 0
    while driver.step():
        running = {e.rid.partition(".")[0] for e in driver.scheduler.slots.running()}
        most = max(most, len(running))
    assert len(driver.ended) == 32
    assert most <= 4  # three groups fill the slots


@pytest.mark.parametrize("seed", range(12))
def test_random_traffic(seed: int) -> None:
    """Shared prefixes, pressure, aborts, windows, any depth: every token is the model's."""
    rng = random.Random(seed)
    page_size = rng.choice([1, 4, 16])
    total = rng.choice([160, 320, 1600])
    groups = [PageGroup(num_pages=total // page_size)]
    if seed % 3 == 0:
        groups.append(PageGroup(num_pages=total // page_size, window=rng.choice([5, 16, 33])))
    driver = Driver(
        config(
            page_size=page_size,
            groups=tuple(groups),
            context_length=total,
            max_running=rng.choice([2, 8, 16]),
            chunk_tokens=rng.choice([0, 7, 16, 64]),
            policy=rng.choice(["fcfs", "lpm", "dfs-weight", "lof", "random", "priority"]),
            same_step_sharing=rng.random() < 0.5,
            radix=rng.random() < 0.8,
            eviction=rng.choice(["lru", "lfu"]),
        ),
        depth=rng.choice([1, 2, 3]),
    )
    driver.scheduler._estimate.ratio = rng.choice([0.0, 0.7])
    prefixes = [prompt(50 + i, rng.randrange(1, 60)) for i in range(4)]
    asked: dict[str, tuple[list[int], int]] = {}
    aborted: set[str] = set()
    for i in range(60):
        ids = rng.choice(prefixes)[: rng.randrange(1, 60)] + prompt(200 + i, rng.randrange(0, 20))
        asked[f"r{i}"] = (ids, rng.randrange(0, 40))
        driver.submit(f"r{i}", ids, max_new_tokens=asked[f"r{i}"][1], ignore_eos=True)
        for _ in range(rng.randrange(4)):
            driver.step()
        if rng.random() < 0.1:
            aborted.add(rid := rng.choice(list(asked)))
            driver.abort([rid])
    driver.run()
    assert driver.ended.keys() == asked.keys()
    for rid, (ids, count) in asked.items():
        want = expected_tokens(ids, count)
        got = driver.tokens(rid)
        assert got == want[: len(got)]
        assert len(got) == count or rid in aborted
    assert driver.scheduler.cache.stats().groups[0].owned == 0
    assert np.all(~driver.scheduler.slots.decoding)
