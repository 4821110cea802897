"""Level 2: paged attention against the dense oracle, scenario by scenario.

Every scenario runs two layers and shuffled page ids. All but ``geometry``, ``dtype`` and the page
sizes run in one middling geometry: they are about bookkeeping, which no size changes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from tupelo.backend import Capabilities, HeadSplit
from tupelo.batch import Bucket
from tupelo.conformance.case import Case, check
from tupelo.conformance.dense import attend
from tupelo.conformance.geometry import Geometry
from tupelo.conformance.levels.prefix_groups import prefix_group_cases
from tupelo.conformance.paged_world import TOLERANCES, PagedWorld, Row
from tupelo.conformance.target import Target
from tupelo.ops import OPS

Scenario = Callable[[PagedWorld], None]

HEADS = ((2, 2), (6, 2), (8, 1))
"""(num_heads, num_kv_heads): ratios 1, 3 and 8."""


def attention_cases(target: Target) -> Iterator[Case]:
    """The attention cases of level 2: ``attention/SCENARIO[/VARIANT]``."""
    has = target.backend.capabilities
    base = base_geometry(target)

    def case(name: str, scenario: Scenario, geometry: Geometry = base, skip: str = "") -> Case:
        def run() -> None:
            scenario(PagedWorld(target, geometry))

        return Case(f"attention/{name}", 2, run, skip)

    for page_size in page_sizes(has):
        sized = replace(base, page_size=page_size)
        for name, scenario in _BY_PAGE_SIZE.items():
            yield case(f"{name}/page_{page_size}", scenario, sized)
    for heads, kv_heads in HEADS:
        for dim in has.head_dims or (16, 80, 128, 256):
            shaped = replace(base, num_heads=heads, num_kv_heads=kv_heads, head_dim=dim)
            yield case(f"geometry/heads_{heads}_{kv_heads}/dim_{dim}", _mixed, shaped)
    for dtype, kv_dtype in _dtype_pairs(has):
        typed = replace(base, dtype=dtype, kv_dtype=kv_dtype)
        yield case(f"dtype/{dtype}_kv_{kv_dtype}", _mixed, typed)
        yield case(f"dtype/{dtype}_kv_{kv_dtype}/long", _long, typed)
    for name, scenario in _ONCE.items():
        yield case(name, scenario)
    no_sharing = "" if has.same_step_sharing else "the backend does not declare same_step_sharing"
    yield case("shared_in_the_same_step", _shared_in_the_same_step, skip=no_sharing)
    no_window = "" if has.window else "the backend does not declare window"
    windowed = replace(base, windows=(None, 7))
    for name, scenario in _WINDOWED.items():
        yield case(f"window/{name}", scenario, windowed, no_window)
    no_chunks = no_window if has.chunked else "the backend does not declare chunked"
    for name, scenario in (*_WINDOWED.items(), ("long", _long), ("shared", _shared_prefix)):
        yield case(f"chunked_window/{name}", scenario, replace(windowed, chunked=True), no_chunks)
    no_cap = "" if has.soft_cap else "the backend does not declare soft_cap"
    yield case("soft_cap", _mixed, replace(base, soft_cap=2.0), no_cap)
    capped = replace(base, soft_cap=2.0, windows=(7, None))
    yield case("soft_cap/window", _mixed, capped, no_cap or no_window)
    no_sinks = "" if has.sinks else "the backend does not declare sinks"
    yield case("sinks", _mixed, replace(base, sinks=True), no_sinks)
    yield case("sinks/long", _long, replace(base, sinks=True), no_sinks)
    sunk = replace(base, sinks=True, windows=(7, None))
    yield case("sinks/window", _mixed, sunk, no_sinks or no_window)
    no_latent = "" if has.latent_kv else "the backend does not declare latent_kv"
    for dim, rank in ((24, 16), (96, 64), (576, 512)):
        latent = replace(base, num_heads=8, num_kv_heads=1, head_dim=dim, value_dim=rank)
        yield case(f"latent/dim_{dim}_{rank}", _mixed, latent, no_latent)
    latent = replace(base, num_kv_heads=1, head_dim=24, value_dim=16)
    for name, scenario in (("long", _long), ("chunked", _chunked), ("shared", _shared_prefix)):
        yield case(f"latent/{name}", scenario, latent, no_latent)
    for dtype in has.dtypes:
        run = partial(_absorbed, target, replace(base, dtype=dtype))
        yield Case(f"attention/latent/absorbed/{dtype}", 2, run, no_latent)
    yield case("large_scores", _mixed, replace(base, size=6.0))
    yield from prefix_group_cases(target, base)
    for dtype in has.dtypes:
        packed = partial(_packed_qkv, target, replace(base, dtype=dtype))
        yield Case(f"attention/packed_qkv/{dtype}", 2, packed)
        declared = dtype in has.batch_invariant
        skip = "" if declared else f"the backend does not declare batch_invariant in {dtype}"
        run = partial(_invariant, target, replace(base, dtype=dtype))
        yield Case(f"attention/batch_invariant/{dtype}", 2, run, skip)


def page_sizes(has: Capabilities) -> tuple[int, ...]:
    """The page sizes to test: those declared, or 1, 4 and 16."""
    return has.page_sizes or (1, 4, 16)


def base_geometry(target: Target) -> Geometry:
    """The geometry of the scenarios that are about bookkeeping."""
    has = target.backend.capabilities
    sizes = page_sizes(has)
    dims = has.head_dims
    return Geometry(
        dtype=target.dtype,
        kv_dtype=target.dtype
        if target.dtype in (has.kv_dtypes or has.dtypes)
        else has.kv_dtypes[0],
        page_size=4 if 4 in sizes else min(sizes),
        head_dim=64 if not dims or 64 in dims else dims[0],
    )


def _dtype_pairs(has: Capabilities) -> list[tuple[str, str]]:
    """Each compute type over its own storage type where that is declared, and over the others."""
    stored = has.kv_dtypes or has.dtypes
    pairs = [(d, d) for d in has.dtypes if d in stored]
    return pairs + [(has.dtypes[0], kv) for kv in stored if (has.dtypes[0], kv) not in pairs]


def _prefill(world: PagedWorld) -> None:
    p = world.geometry.page_size
    world.step(Row(0, 2 * p + 3), Row(1, 5), Row(2, 3 * p))


def _one_token(world: PagedWorld) -> None:
    world.step(Row(0, 1))
    world.step(Row(0, 1))


def _chunked(world: PagedWorld) -> None:
    """Three chunks, none ending where a page does: later chunks see all of the earlier ones."""
    p = world.geometry.page_size
    for first, second in ((p + 1, 3), (p + 2, 2 * p + 1), (5, p + 3)):
        world.step(Row(0, first), Row(3, second))


def _decode(world: PagedWorld) -> None:
    """Decoding across two page boundaries, from lengths before, at and after one."""
    p = world.geometry.page_size
    steps = min(2 * p + 2, 10)
    world.step(Row(0, 2 * p - 1 or 1), Row(1, 2 * p), Row(2, 2 * p + 1))
    for _ in range(steps):
        world.step(Row(0, 1), Row(1, 1), Row(2, 1))


def _mixed(world: PagedWorld) -> None:
    """Decode rows, a later chunk and a fresh prompt in one step, twice."""
    p = world.geometry.page_size
    world.step(Row(4, 2), Row(0, p + 2), Row(1, 2 * p), Row(2, 6))
    world.step(Row(1, 1), Row(4, 1), Row(0, p + 1), Row(3, 2 * p + 1))
    world.step(Row(3, 1), Row(1, 1), Row(2, 1), Row(0, 3))


def _boundaries(world: PagedWorld) -> None:
    """Chunks that end at, just before and just after a page boundary."""
    p = world.geometry.page_size
    for count in (p, p, max(1, p - 1), 1, 2, p + 1):
        world.step(Row(0, count))


def _long(world: PagedWorld) -> None:
    """More keys than any kernel's tile: a long prompt, a long chunk after it, a decode step."""
    length = min(150, 60 * world.geometry.page_size)
    world.step(Row(0, length))
    world.step(Row(1, 3), Row(0, min(70, 15 * world.geometry.page_size)))
    world.step(Row(0, 1), Row(1, 1))


def _shared_prefix(world: PagedWorld) -> None:
    """Rows over pages that an earlier step filled for another row; then all of them decode."""
    shared = 2 * world.geometry.page_size
    world.step(Row(0, shared + 3))
    world.step(Row(1, 2, shares=0, shared=shared), Row(2, 5, shares=0, shared=shared))
    world.step(Row(0, 1), Row(1, 1), Row(2, 1))


def _shared_in_the_same_step(world: PagedWorld) -> None:
    """A row reads pages that another row of the step fills, in both orders of the rows."""
    shared = 2 * world.geometry.page_size
    world.step(Row(0, shared + 2), Row(1, 3, shares=0, shared=shared))
    world.step(Row(3, 4, shares=2, shared=shared), Row(2, shared + 2))
    world.step(Row(5, 1, shares=4, shared=shared), Row(4, shared))
    world.step(Row(0, 1), Row(1, 1), Row(2, 1), Row(3, 1), Row(4, 1), Row(5, 1))


def _reused_pages(world: PagedWorld) -> None:
    """Pages that a former request left full of large numbers."""
    p = world.geometry.page_size
    world.step(Row(0, 4 * p), size=1000.0)
    world.clear(0)
    world.step(Row(1, p + 1))
    world.step(Row(1, 2))


def _many_rows(world: PagedWorld) -> None:
    """All slots at once, of uneven lengths, rows in another order each step."""
    random = np.random.default_rng(5)
    world.step(*(Row(slot, 2 + 3 * slot) for slot in range(6)))
    for _ in range(3):
        world.step(*(Row(int(slot), 1) for slot in random.permutation(6)))


def _padding(world: PagedWorld) -> None:
    """A bucket larger than the step: padding stores nothing and disturbs nobody."""
    p = world.geometry.page_size
    world.step(Row(0, p + 2), Row(1, 3), bucket=_bucket(world, p + 5, 2))
    world.step(Row(0, 1), Row(1, 1), bucket=_bucket(world, 2, 2))
    world.step(Row(1, 1), Row(2, p), bucket=_bucket(world, p + 1, 2))
    world.step(Row(0, 1), Row(1, 1), Row(2, 1))


def _refilled_plan(world: PagedWorld) -> None:
    """``plan(out=)``: one step's plan refilled for other lengths, slots and pages, time and again.

    The bucket is the same, as it is where a captured graph replays over the plan's buffers.
    """
    p = world.geometry.page_size
    bucket = _bucket(world, 3 * p + 8, 4)
    plan = world.step(Row(0, p + 1), Row(1, 2 * p), bucket=bucket)
    plan = world.step(Row(0, 1), Row(1, 1), bucket=bucket, plan=plan)
    plan = world.step(Row(1, 1), Row(2, p + 3), Row(3, 2), bucket=bucket, plan=plan)
    world.step(Row(3, 1), Row(0, 1), Row(2, 1), Row(1, 1), bucket=bucket, plan=plan)


def _window_chunks(world: PagedWorld) -> None:
    """A window shorter than the prompt, over chunks and decode steps that leave it behind."""
    p = world.geometry.page_size
    world.step(Row(0, 2 * p + 5), Row(1, 3))
    world.step(Row(1, 1), Row(0, p + 2))
    for _ in range(4):
        world.step(Row(0, 1), Row(1, 1))


def _window_freed_pages(world: PagedWorld) -> None:
    """Pages behind the window are given to another row, which fills them with large numbers."""
    g, book = world.geometry, world.books[1]
    p = g.page_size
    world.step(Row(0, 5 * p + 12))
    length = world.length(0)
    behind = (length - (g.windows[1] or 0)) // p
    book.set(1, book.pages(0)[:behind])
    world.step(Row(1, behind * p), size=1000.0)
    world.step(Row(0, 1))
    world.step(Row(0, 3))


def _window_absent_pages(world: PagedWorld) -> None:
    """The table has -1 for pages behind the window, as after a match in the prefix cache."""
    g, book = world.geometry, world.books[1]
    world.step(Row(0, 5 * g.page_size + 12))
    behind = (world.length(0) - (g.windows[1] or 0)) // g.page_size
    book.set(0, [-1] * behind + book.pages(0)[behind:])
    world.step(Row(0, 1))
    world.step(Row(0, 3))


def _bucket(world: PagedWorld, tokens: int, rows: int) -> Bucket | None:
    """A bucket with room to spare; None lets a runner with static shapes choose its own."""
    return None if world.has_static_shapes else Bucket(tokens + 5, rows + 2)


def _invariant(target: Target, geometry: Geometry) -> None:
    """A row's bits are the same alone and among others, in one chunk and in two."""
    alone = PagedWorld(target, geometry, seed=3)
    among = PagedWorld(target, geometry, seed=3)
    random = np.random.default_rng(3)
    shape = (20, geometry.num_heads, geometry.head_dim)
    kv_shape = (20, geometry.num_kv_heads, geometry.head_dim)
    sizes = (shape, kv_shape, kv_shape)
    q, k, v = (random.standard_normal(s, np.float32) for s in sizes)
    others = [random.standard_normal((9, *s[1:]), np.float32) for s in sizes]
    first = alone.raw_step([Row(0, 20)], q, k, v)
    both = [np.concatenate(pair) for pair in zip((q, k, v), others, strict=True)]
    second = among.raw_step([Row(0, 20), Row(1, 9)], *both)[:20]
    check(torch.equal(first, second), "a prompt's attention depends on the other row of the step")
    chunked = PagedWorld(target, geometry, seed=3)
    chunks = [
        chunked.raw_step([Row(0, part.stop - part.start)], q[part], k[part], v[part])
        for part in (slice(0, 13), slice(13, 20))
    ]
    check(torch.equal(first, torch.cat(chunks)), "a prompt's attention depends on its chunks")
    last = [np.ascontiguousarray(t[-1:]) for t in (q, k, v)]
    single = alone.raw_step([Row(0, 1)], *last)
    pair = [np.concatenate((t, o[-1:])) for t, o in zip(last, others, strict=True)]
    joint = among.raw_step([Row(0, 1), Row(1, 1)], *pair)[:1]
    check(torch.equal(single, joint), "a decode row's attention depends on the other row")


def _packed_qkv(target: Target, geometry: Geometry) -> None:
    """``forward_qkv`` is ``forward`` of its split, and so are its two parts where it has such: for
    prompts, chunks after them, and decoding."""
    g = geometry
    fused, apart, cut = (PagedWorld(target, g, seed=4) for _ in range(3))
    random = np.random.default_rng(4)
    split = _split(fused, random)
    width = (g.num_heads + 2 * g.num_kv_heads) * g.head_dim
    for rows in ([Row(0, 9), Row(1, 5)], [Row(1, 1), Row(0, 7)], [Row(0, 1), Row(1, 1)]):
        qkv = random.standard_normal((sum(row.count for row in rows), width), np.float32)
        got = fused.packed_step(rows, qkv, split, in_turn=False).float()
        want = apart.packed_step(rows, qkv, split, in_turn=True).float()
        off = float((got - want).abs().max())
        limit = 8 * TOLERANCES[g.dtype].absolute  # normed and rotated first: rounded twice more
        check(off <= limit, f"forward_qkv is off by {off:.3g} from split and forward; {rows}")
        parts = cut.cut_step(rows, qkv, split)
        off = 0.0 if parts is None else float((parts.float() - want).abs().max())
        check(off <= limit, f"begin_qkv and finish_qkv are off by {off:.3g}; {rows}")


def _absorbed(target: Target, geometry: Geometry) -> None:
    """``forward_mla`` is plain attention over the keys and values that it never makes."""
    nope, rotated, rank, width, heads = 16, 8, 24, 12, 4
    g = replace(geometry, num_heads=heads, num_kv_heads=1, head_dim=rank + rotated, value_dim=rank)
    world, random = PagedWorld(target, g, seed=6), np.random.default_rng(6)
    shapes = ((heads, nope, rank), (heads, width, rank))
    up_k, up_v = (random.standard_normal(s, np.float32) * rank**-0.5 for s in shapes)
    latents = np.empty((0, rank + rotated))
    for count in (9, 3, 1):
        drawn = [
            random.standard_normal(s, np.float32)
            for s in ((count, heads, nope), (count, heads, rotated), (count, rank + rotated))
        ]
        got, (q_nope, q_rope, stored, exact_k, exact_v) = world.latent_step(
            Row(0, count), drawn, (up_k, up_v)
        )
        latents = np.concatenate((latents, stored))
        rope = np.repeat(latents[:, None, rank:], heads, axis=1)
        k = np.concatenate((np.einsum("tr,hnr->thn", latents[:, :rank], exact_k), rope), axis=2)
        v = np.einsum("tr,hvr->thv", latents[:, :rank], exact_v)
        q = np.concatenate((q_nope, q_rope), axis=2)
        want = attend(q, k, v, scale=world.kinds[0].scale)
        off = float(np.abs(got - want).max())
        limit = 8 * TOLERANCES[g.dtype].absolute  # queries and sums are rounded once more each
        check(off <= limit, f"forward_mla is off by {off:.3g} from plain attention, {count} tokens")


def _split(world: PagedWorld, random: np.random.Generator) -> HeadSplit:
    """Norms and rotations of some model, on the world's device."""
    g, runtime = world.geometry, world.runtime
    with runtime.stream():
        norms = runtime.to_device(random.uniform(0.5, 1.5, (2, g.head_dim)).astype(np.float32))
        angles = np.arange(64)[:, None] * 10.0 ** -np.linspace(0, 3, g.head_dim // 2)
        turns = np.concatenate((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
        cos_sin = runtime.to_device(turns)
        q_norm, k_norm = norms.to(getattr(torch, g.dtype))
    return HeadSplit(
        fn=OPS["norm_rope_qkv"].reference,
        cos_sin=cos_sin,
        q_norm=q_norm,
        k_norm=k_norm,
        eps=1e-5,
        num_heads=g.num_heads,
        num_kv_heads=g.num_kv_heads,
        head_dim=g.head_dim,
    )


_BY_PAGE_SIZE: dict[str, Scenario] = {
    "prefill": _prefill,
    "chunked": _chunked,
    "decode": _decode,
    "mixed": _mixed,
    "boundaries": _boundaries,
    "shared_prefix": _shared_prefix,
}

_ONCE: dict[str, Scenario] = {
    "one_token": _one_token,
    "long": _long,
    "reused_pages": _reused_pages,
    "many_rows": _many_rows,
    "padding": _padding,
    "refilled_plan": _refilled_plan,
}

_WINDOWED: dict[str, Scenario] = {
    "chunks": _window_chunks,
    "mixed": _mixed,
    "freed_pages": _window_freed_pages,
    "absent_pages": _window_absent_pages,
    "padding": _padding,
}
