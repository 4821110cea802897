"""Level 2: pages of the pool copied to the host arena and back."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from tupelo.conformance.case import Case, check
from tupelo.conformance.levels.attention import base_geometry
from tupelo.conformance.paged_world import NUM_PAGES, PagedWorld, Row
from tupelo.conformance.target import Target
from tupelo.specs import dtype_bytes

HOST_PAGES = 12


def kv_cases(target: Target) -> Iterator[Case]:
    """The K/V cases of level 2: ``kv/NAME``."""
    has = target.backend.capabilities
    cases: list[tuple[str, Callable[[Target], None]]] = [
        ("num_bytes", _num_bytes),
        ("copy_out", _copy_out),
        ("copy_out_layers", _copy_out_layers),
        ("round_trip", _round_trip),
        ("copy_in_leaves_others", _copy_in_leaves_others),
        ("copy_nothing", _copy_nothing),
    ]
    for name, run in cases:
        yield Case(f"kv/{name}", 2, partial(run, target))
    skip = "" if has.window else "the backend does not declare window"
    yield Case("kv/groups", 2, partial(_groups, target), skip)


def _num_bytes(target: Target) -> None:
    world = PagedWorld(target, base_geometry(target))
    g = world.geometry
    element = dtype_bytes(g.kv_dtype)
    least = 2 * len(g.windows) * NUM_PAGES * g.page_size * g.num_kv_heads * g.head_dim * element
    got = world.pool.num_bytes()
    check(least <= got <= 1.1 * least, f"num_bytes() is {got}; K and V of all pages are {least}")


def _copy_out(target: Target) -> None:
    """The arena has the neutral layout, at the host pages that were named."""
    world = PagedWorld(target, base_geometry(target))
    p = world.geometry.page_size
    arena = world.pool.arena(HOST_PAGES)
    world.step(Row(0, 3 * p), Row(1, 2 * p))
    host_pages = [7, 2, 5]
    layers = range(len(world.geometry.windows))
    ticket = world.pool.copy_out(world.books[0].pages(0), host_pages, layers)
    ticket.wait()
    check(ticket.ready(), "a copy that was waited for isn't ready")
    for layer in layers:
        _check_arena(world, arena, layer, host_pages, slot=0)


def _copy_out_layers(target: Target) -> None:
    """One layer alone: the arena's other layers stay as they were."""
    world = PagedWorld(target, base_geometry(target))
    arena = world.pool.arena(HOST_PAGES)
    world.step(Row(0, 2 * world.geometry.page_size))
    arena[:] = 77
    world.pool.copy_out(world.books[0].pages(0), [4, 3], [1]).wait()
    _check_arena(world, arena, 1, [4, 3], slot=0)
    untouched = np.delete(arena[:, 1], [3, 4], axis=0)
    check(bool((arena[:, 0] == 77).all()), "copying layer 1 out changed layer 0 of the arena")
    check(bool((untouched == 77).all()), "pages of the arena changed that were not named")


def _round_trip(target: Target) -> None:
    """A sequence copied out, back into other pages, and continued there."""
    world = PagedWorld(target, base_geometry(target))
    p, layers = world.geometry.page_size, range(len(world.geometry.windows))
    world.pool.arena(HOST_PAGES)
    world.step(Row(0, 3 * p), Row(1, p + 1))
    world.pool.copy_out(world.books[0].pages(0), [9, 0, 4], layers).wait()
    saved = [(world.keys[i][0], world.values[i][0]) for i in layers]
    world.clear(0)
    world.step(Row(2, 4 * p), size=1000.0)  # over the old pages
    target_pages = world.books[0].take(3)
    world.pool.copy_in([9, 0, 4], target_pages, layers).wait()
    world.books[0].set(3, target_pages)
    for layer, (keys, values) in enumerate(saved):
        world.keys[layer][3], world.values[layer][3] = keys, values
    world.step(Row(3, 1), Row(1, 1))
    world.step(Row(1, 1), Row(3, p + 2))


def _copy_in_leaves_others(target: Target) -> None:
    """Copying into some pages changes no other page of the pool, those next to them least."""
    world = PagedWorld(target, base_geometry(target))
    p, layers = world.geometry.page_size, range(len(world.geometry.windows))
    world.pool.arena(HOST_PAGES)
    for slot in range(4):
        world.books[0].set(slot, [10 + slot, 20 + slot])
    world.step(*(Row(slot, 2 * p) for slot in range(4)))
    pages = world.books[0].pages(1)
    world.pool.copy_out(pages, [1, 2], layers).wait()
    world.pool.copy_in([2, 1], list(reversed(pages)), layers).wait()
    world.step(*(Row(slot, 1) for slot in range(4)))


def _copy_nothing(target: Target) -> None:
    world = PagedWorld(target, base_geometry(target))
    world.pool.arena(HOST_PAGES)
    world.step(Row(0, 3))
    world.pool.copy_out([], [], [0]).wait()
    world.pool.copy_in([], [], [0]).wait()
    world.step(Row(0, 1))


def _groups(target: Target) -> None:
    """Two page groups with the same page ids: copies name layers, so they stay apart."""
    geometry = replace(base_geometry(target), windows=(None, 7))
    world = PagedWorld(target, geometry)
    p = geometry.page_size
    arena = world.pool.arena(HOST_PAGES)
    world.step(Row(0, 2 * p))
    for layer, host_pages in ((0, [3, 8]), (1, [6, 1])):
        world.pool.copy_out(world.books[layer].pages(0), host_pages, [layer]).wait()
    _check_arena(world, arena, 0, [3, 8], slot=0)
    _check_arena(world, arena, 1, [6, 1], slot=0)


def _check_arena(
    world: PagedWorld, arena: np.ndarray, layer: int, host_pages: list[int], slot: int
) -> None:
    """Bytes of a slot's first pages: (page_size, num_kv_heads, head_dim), K before V."""
    g = world.geometry
    page_bytes = g.page_size * g.num_kv_heads * g.head_dim * dtype_bytes(g.kv_dtype)
    want_shape = (HOST_PAGES, len(g.windows), 2, page_bytes)
    check(arena.shape == want_shape, f"the arena is {arena.shape}, not {want_shape}")
    check(arena.dtype == np.uint8, f"the arena is {arena.dtype}, not uint8")
    for kv, history in enumerate((world.keys[layer][slot], world.values[layer][slot])):
        for index, host_page in enumerate(host_pages):
            tokens = history[index * g.page_size : (index + 1) * g.page_size]
            exact = torch.from_numpy(tokens.copy()).to(getattr(torch, g.kv_dtype))
            want = exact.view(torch.uint8).numpy().reshape(-1)
            check(
                np.array_equal(arena[host_page, layer, kv], want),
                f"layer {layer}, {'KV'[kv]}: host page {host_page} is not page {index} of the slot",
            )
