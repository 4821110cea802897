"""Parts on their own: merging streams, histograms, seeds, options."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from tupelo.errors import ConfigError
from tupelo_server.config import ServerConfig
from tupelo_server.generation import derived_seed
from tupelo_server.merge import merge
from tupelo_server.metrics import Histogram
from tupelo_server.server import bind


async def count(limit: int, closed: list[int], fails: bool = False) -> AsyncGenerator[int, None]:
    try:
        for number in range(limit):
            await asyncio.sleep(0)
            yield number
        if fails:
            raise ValueError("broken")
    finally:
        closed.append(limit)


async def test_merge_gives_every_item_and_closes() -> None:
    closed: list[int] = []
    found = [item async for item in merge([count(2, closed), count(3, closed)])]
    assert sorted(found) == [0, 0, 1, 1, 2]
    assert sorted(closed) == [2, 3]


async def test_merge_ends_with_the_first_error() -> None:
    closed: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        async for _ in merge([count(1, closed, fails=True), count(10**9, closed)]):
            pass
    assert sorted(closed) == [1, 10**9]


async def test_merge_closed_early_closes_all() -> None:
    closed: list[int] = []
    stream = merge([count(10**9, closed), count(10**8, closed)])
    await anext(stream)
    await stream.aclose()
    assert sorted(closed) == [10**8, 10**9]


def test_histogram_counts_up_to_and_with_the_bound() -> None:
    histogram = Histogram([1.0, 2.0])
    for value, times in ((0.5, 1), (1.0, 2), (1.5, 1), (9.0, 3)):
        histogram.observe(value, times)
    samples = histogram.family("x", "text", {"a": "b"}).samples
    values = {(s.name, s.labels.get("le")): s.value for s in samples}
    assert values[("x_bucket", "1.0")] == 3
    assert values[("x_bucket", "2.0")] == 4
    assert values[("x_bucket", "+Inf")] == values[("x_count", None)] == 7
    assert values[("x_sum", None)] == pytest.approx(0.5 + 2 + 1.5 + 27)


def test_derived_seeds_are_fixed_and_in_range() -> None:
    seeds = [derived_seed(7, i) for i in range(100)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 100
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)
    assert derived_seed(7, 1) == -3159004229965238754, (
        "a change here changes what clients get for their seeds"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"port": 70000},
        {"port": -1},
        {"root_path": "llm"},
        {"log_level": "loud"},
        {"root_path": "/"},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--"):
        ServerConfig(**options)  # type: ignore[arg-type]


def test_a_taken_port_is_a_config_error() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(ConfigError, match="another --port"):
        bind("127.0.0.1", first.getsockname()[1])
