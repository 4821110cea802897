"""The table of choices: measured while open, remembered, and never wrong about what it knows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tupelo.triton.choices import ROW_BUCKETS, ChoiceTable, Product, row_bucket

SECONDS = {"plain": 3.0, "fast": 1.0, "slow": 5.0}
PRODUCT = Product("linear", 64, 32, "bfloat16", 16)


class _World:
    """Ways that answer with their name, and a clock that knows their seconds."""

    def __init__(self, seconds: Mapping[str, float] = SECONDS) -> None:
        self.seconds = dict(seconds)
        self.num_measures = 0

    def candidates(self, product: Product) -> dict[str, Any]:
        """One way a name."""
        return {name: (lambda *_, name=name: name) for name in SECONDS}

    def measure(self, ways: Mapping[str, Any], arguments: tuple[Any, ...]) -> dict[str, float]:
        """What the clock says."""
        self.num_measures += 1
        return {name: self.seconds[name] for name in ways if name in self.seconds}

    def table(self, file: Path | None = None, identity: str = "gpu", **more: Any) -> ChoiceTable:
        """A table over this world."""
        return ChoiceTable(self.candidates, self.measure, file=file, identity=identity, **more)


def _ask(table: ChoiceTable, product: Product = PRODUCT) -> str:
    answer: str = table.find(product, ())()
    return answer


def test_buckets_hold_their_rows() -> None:
    assert [row_bucket(n) for n in (1, 2, 16, 17, 64, 65, 513)] == [1, 16, 16, 32, 64, 128, 1024]
    assert row_bucket(10**6) == ROW_BUCKETS[-1]


def test_closed_it_measures_nothing_and_takes_the_default() -> None:
    world = _World()
    table = world.table()
    assert _ask(table) == "plain"
    assert world.num_measures == 0
    with table.open():
        assert _ask(table) == "fast"
    assert _ask(table) == "fast"
    assert world.num_measures == table.num_measured == 1


def test_wrong_ways_are_never_chosen() -> None:
    world = _World({"plain": 3.0, "slow": 5.0})
    table = world.table()
    with table.open():
        assert _ask(table) == "plain"


def test_choices_are_remembered_by_device(tmp_path: Path) -> None:
    file = tmp_path / "a" / "choices.json"
    world = _World()
    for identity in ("gpu", "other"):
        table = world.table(file, identity)
        with table.open():
            _ask(table)
    assert world.num_measures == 2
    again = world.table(file)
    assert _ask(again) == "fast"
    assert world.num_measures == 2
    assert set(json.loads(file.read_text())) == {"gpu", "other"}


def test_a_remembered_way_that_is_gone_is_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    file.write_text(json.dumps({"gpu": {PRODUCT.key(): "removed"}}))
    table = _World().table(file)
    assert _ask(table) == "plain"
    with table.open():
        assert _ask(table) == "fast"


@pytest.mark.parametrize("text", ["", "[1]", '{"gpu": 3}', "\x00"])
def test_a_broken_file_is_said_and_replaced(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "choices.json"
    file.write_text(text)
    table = _World().table(file)
    assert "unreadable" in caplog.text
    with table.open():
        _ask(table)
    assert json.loads(file.read_text())["gpu"] == {PRODUCT.key(): "fast"}


def test_known_choices_come_before_measuring() -> None:
    world = _World()
    table = world.table(known={PRODUCT.key(): "slow"})
    assert _ask(table) == "slow"
    assert world.num_measures == 0


def test_keys_tell_products_apart() -> None:
    others = [
        Product("gated_silu", 64, 32, "bfloat16", 16),
        Product("linear", 32, 64, "bfloat16", 16),
        Product("linear", 64, 32, "float16", 16),
        Product("linear", 64, 32, "bfloat16", 32),
        Product("linear", 64, 32, "bfloat16", 16, bias=True),
    ]
    assert len({p.key() for p in (PRODUCT, *others)}) == 6


def test_what_a_library_offers_is_timed_too_and_found_again_by_name() -> None:
    world = _World(SECONDS | {"offered_7": 0.5})
    more: dict[str, Any] = {
        "offered": lambda product, arguments: {"offered_7": lambda *_: "offered 7"},
        "named": lambda product, name: (lambda *_: "by name") if name == "offered_7" else None,
    }
    table = world.table(**more)
    with table.open():
        assert _ask(table) == "offered 7"
    assert table.choices() == {PRODUCT.key(): "offered_7"}
    again = world.table(known=table.choices(), **more)
    assert _ask(again) == "by name"
    assert world.num_measures == 1
