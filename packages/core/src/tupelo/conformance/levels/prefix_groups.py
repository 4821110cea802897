"""Level 2: decode rows that share a prefix, named as ``Batch.prefix_groups``, against the oracle.

A backend may read a group's prefix once, or ignore the groups: the answer is the same. Every row
is checked, so a prefix that goes to a wrong row, or is weighed wrongly against the row's own
tokens, shows.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from tupelo.backend import Capabilities
from tupelo.batch import Bucket
from tupelo.conformance.case import Case
from tupelo.conformance.geometry import Geometry
from tupelo.conformance.paged_world import MAX_PAGES, PagedWorld, Row
from tupelo.conformance.target import Target

Scenario = Callable[[PagedWorld], None]

HEADS = ((2, 2), (6, 2), (8, 1))
"""(num_heads, num_kv_heads): ratios 1, 3 and 8."""


def prefix_group_cases(target: Target, base: Geometry) -> Iterator[Case]:
    """The cases ``attention/prefix_groups/SCENARIO[/VARIANT]`` in the geometry ``base``."""
    has = target.backend.capabilities
    undeclared = "" if has.prefix_group_tokens else "the backend does not declare prefix groups"

    def case(name: str, scenario: Scenario, geometry: Geometry = base, skip: str = "") -> Case:
        def run() -> None:
            scenario(PagedWorld(target, geometry))

        return Case(f"attention/prefix_groups/{name}", 2, run, undeclared or skip)

    for name, scenario in _SCENARIOS.items():
        yield case(name, scenario)
    for page_size in _other_page_sizes(has, base):
        sized = replace(base, page_size=page_size)
        yield case(f"several/page_{page_size}", _several, sized)
        yield case(f"long/page_{page_size}", _long, sized)
    for heads, kv_heads in HEADS:
        for dim in has.head_dims or (16, 80, 256):
            shaped = replace(base, num_heads=heads, num_kv_heads=kv_heads, head_dim=dim)
            yield case(f"geometry/heads_{heads}_{kv_heads}/dim_{dim}", _several, shaped)
    for dtype in has.dtypes:
        typed = replace(base, dtype=dtype, kv_dtype=dtype)
        unstored = dtype not in (has.kv_dtypes or has.dtypes)
        skip = f"the backend does not store {dtype}" if unstored else ""
        yield case(f"dtype/{dtype}", _long, typed, skip)
    no_window = "" if has.window else "the backend does not declare window"
    yield case("window", _several, replace(base, windows=(None, 7)), no_window)
    no_cap = "" if has.soft_cap else "the backend does not declare soft_cap"
    yield case("soft_cap", _several, replace(base, soft_cap=2.0), no_cap)
    yield case("large_scores", _several, replace(base, size=6.0))


def _other_page_sizes(has: Capabilities, base: Geometry) -> list[int]:
    return [size for size in has.page_sizes or (1, 4, 16) if size != base.page_size]


def _fill(world: PagedWorld, first: int, second: int) -> None:
    """Slots 0 to 2 share ``first`` tokens, 3 and 4 share ``second``, 5 shares none."""
    world.step(Row(0, first + 3), Row(3, second + 1), Row(5, 7))
    world.step(
        Row(1, 1, shares=0, shared=first),
        Row(4, 1, shares=3, shared=second),
        Row(2, world.geometry.page_size + 2, shares=0, shared=first),
    )


def _several(world: PagedWorld) -> None:
    """Two groups and a row in none, for several steps; then one group in another order."""
    p = world.geometry.page_size
    _fill(world, 3 * p, p)
    rows = [Row(slot, 1) for slot in (1, 0, 2, 4, 3, 5)]
    for _ in range(3):
        world.step(*rows, groups=((3, 3 * p), (2, p)))
    world.step(Row(4, 1), Row(3, 1), Row(2, 1), Row(0, 1), groups=((2, p),))
    world.step(*rows)


def _all_rows(world: PagedWorld) -> None:
    """Every row of the step is in one group; then only a part of what they share is named."""
    p = world.geometry.page_size
    world.step(Row(0, 4 * p + 1))
    shared = [Row(slot, 1, shares=0, shared=4 * p) for slot in range(1, 6)]
    world.step(*shared)
    rows = [Row(slot, 1) for slot in range(6)]
    world.step(*rows, groups=((6, 4 * p),))
    world.step(*rows, groups=((6, 2 * p),))
    world.step(*rows[:2], groups=((2, 4 * p),))


def _long(world: PagedWorld) -> None:
    """Prefixes longer than any tile of keys, one much longer than the other, and long tails."""
    p = world.geometry.page_size
    pages = min(MAX_PAGES - 12, -(-270 // p))
    _fill(world, pages * p, 5 * p)
    world.step(Row(1, min(70, 9 * p)), Row(3, min(33, 5 * p)))
    rows = [Row(slot, 1) for slot in (0, 1, 2, 3, 4, 5)]
    for _ in range(2):
        world.step(*rows, groups=((3, pages * p), (2, 5 * p)))
    world.step(Row(3, 1), Row(4, 1), Row(5, 1), groups=((2, 5 * p),))


def _mixed(world: PagedWorld) -> None:
    """Groups of decode rows in a step that also computes prompts, one of them on a group's
    prefix."""
    p = world.geometry.page_size
    world.step(Row(0, 3 * p + 2), Row(3, 2 * p))
    world.step(Row(1, 1, shares=0, shared=3 * p), Row(3, 1))
    groups = ((2, 3 * p),)
    world.step(
        Row(1, 1), Row(0, 1), Row(3, 1), Row(2, p + 1, shares=0, shared=3 * p), groups=groups
    )
    world.step(Row(2, 1), Row(1, 1), Row(0, 1), Row(4, 5), groups=((3, 3 * p),))
    world.step(Row(1, 1), Row(0, 1), Row(4, p + 2), Row(5, 3), groups=groups)


def _refilled_plan(world: PagedWorld) -> None:
    """One bucket's plan, refilled: groups, other groups, fewer rows, none, groups again."""
    p = world.geometry.page_size
    _fill(world, 3 * p, 2 * p)
    bucket = None if world.has_static_shapes else Bucket(8, 8)
    rows = [Row(slot, 1) for slot in range(6)]
    plan = world.step(*rows, groups=((3, 3 * p), (2, 2 * p)), bucket=bucket)
    plan = world.step(*rows[3:], *rows[:3], groups=((2, 2 * p),), bucket=bucket, plan=plan)
    plan = world.step(*rows[:2], groups=((2, 2 * p),), bucket=bucket, plan=plan)
    plan = world.step(*reversed(rows), bucket=bucket, plan=plan)
    world.step(*rows, groups=((3, 2 * p), (2, p)), bucket=bucket, plan=plan)
    plan = world.step(*rows, bucket=bucket)
    world.step(*rows, groups=((3, 3 * p),), bucket=bucket, plan=plan)


_SCENARIOS: dict[str, Scenario] = {
    "several": _several,
    "all_rows": _all_rows,
    "long": _long,
    "mixed": _mixed,
    "refilled_plan": _refilled_plan,
}
