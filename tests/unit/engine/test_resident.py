"""Weights replaced and memory given back under a running engine: all or nothing, and no token
changes but by new weights."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engine.test_control import Asking, until
from tests.unit.weights.tiny import LLAMA, TIED, Config, tensors_of, write
from torch import Tensor

from tupelo import Engine
from tupelo.errors import InvalidRequest, RequestAborted, RequestFailed

PROMPTS = [[5, 6, 7, 8, 9, 10, i] for i in range(3)]
CONFIG: Config = {**LLAMA, "max_position_embeddings": 256}


def save(folder: Path, tensors: dict[str, Tensor], config: Config = CONFIG) -> Path:
    folder.mkdir()
    write(folder, config, tensors)
    return folder


@dataclass
class World:
    """An engine over ``first``, and another checkpoint of the same model."""

    engine: Engine
    root: Path
    first: Path
    second: Path

    def ids(self) -> list[list[int]]:
        return Asking(self.engine, PROMPTS).wait()


def options(model: Path, root: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "weight_roots": str(root),
        "max_total_tokens": 1024,
        "page_size": 4,
        "check_integrity": True,
        **more,
    }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    first = tensors_of(CONFIG)
    second = {name: tensor.flip(0) for name, tensor in first.items()}
    root = tmp_path / "root"
    root.mkdir()
    paths = save(root / "first", first), save(root / "second", second)
    with Engine(**options(paths[0], root)) as engine:
        yield World(engine, root, *paths)


def fresh_ids(path: Path, root: Path) -> list[list[int]]:
    with Engine(**options(path, root)) as engine:
        return Asking(engine, PROMPTS).wait()


def test_new_weights_are_those_of_a_fresh_start(world: World) -> None:
    old = world.ids()
    assert world.engine.update_weights_from_disk("second") == 0
    new = world.ids()
    assert new == fresh_ids(world.second, world.root)
    assert new != old
    world.engine.update_weights_from_disk(str(world.first))
    assert world.ids() == old


def test_running_requests_go_on_with_the_new_weights(world: World) -> None:
    engine = world.engine
    asking = Asking(engine, PROMPTS)
    until(lambda: engine.stats()["decode_tokens"] > 30)
    assert engine.update_weights_from_disk("second") == 3
    mixed = asking.wait()
    assert [len(ids) for ids in mixed] == [60, 60, 60]
    again = world.ids()
    assert mixed != again, "they began with the old ones"


def test_requests_can_be_aborted_instead(world: World) -> None:
    asking = Asking(world.engine, PROMPTS)
    until(lambda: world.engine.stats()["num_running"] == 3)
    assert world.engine.update_weights_from_disk("second", abort_requests=True) == 0
    with pytest.raises(RequestAborted):
        asking.wait()


def test_refusals_change_nothing(world: World, tmp_path: Path) -> None:
    old = world.ids()
    outside = save(tmp_path / "outside", tensors_of(CONFIG))
    (world.root / "link").symlink_to(outside)
    linked = world.root / "linked_file"
    linked.mkdir()
    (linked / "config.json").write_text((world.first / "config.json").read_text())
    (linked / "model.safetensors").symlink_to(outside / "model.safetensors")
    save(world.root / "tied", tensors_of(TIED), {**TIED, "max_position_embeddings": 256})
    lacking = tensors_of(CONFIG)
    lacking.pop("model.norm.weight")
    save(world.root / "lacking", lacking)
    broken = save(world.root / "broken", tensors_of(CONFIG)) / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    (world.root / "pickled").mkdir()
    (world.root / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    for path, word in (
        (str(outside), "weight-roots"),
        ("../outside", "weight-roots"),
        ("link", "weight-roots"),
        ("linked_file", "weight-roots"),
        ("nothing", "weight-roots"),
        ("", "model_path"),
        ("a\0b", "weight-roots"),
        ("x" * 10_000, "weight-roots"),
        ("tied", "tie_word_embeddings"),
        ("lacking", "model.norm.weight"),
        ("broken", "broken"),
        ("pickled", "pickled"),
    ):
        with pytest.raises(InvalidRequest, match=word) as caught:
            world.engine.update_weights_from_disk(path)
        assert caught.value.param == "model_path"
        assert str(tmp_path) not in str(caught.value).replace(path or "-", ""), path
    assert world.ids() == old


def test_nothing_is_taken_where_no_root_is_set(tmp_path: Path) -> None:
    path = save(tmp_path / "first", tensors_of(CONFIG))
    with (
        Engine(**{**options(path, tmp_path), "weight_roots": ""}) as engine,
        pytest.raises(InvalidRequest, match="--weight-roots"),
    ):
        engine.update_weights_from_disk(str(path))


def test_weights_that_break_while_they_are_read_leave_the_old_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = world.ids()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("tupelo.engine.resident.fill_model", fail)
    with pytest.raises(RequestFailed, match="OutOfMemoryError"):
        world.engine.update_weights_from_disk("second")
    assert world.ids() == old


@pytest.mark.parametrize("tags", [None, ["kv_cache"], ["weights"]], ids=str)
def test_memory_leaves_and_comes_back(world: World, tags: list[str] | None) -> None:
    engine = world.engine
    old = world.ids()
    engine.release_memory_occupation(tags)
    asking = Asking(engine, PROMPTS)
    until(lambda: engine.stats()["num_waiting"] == 3)
    assert engine.stats()["paused"] == 1
    assert not asking.over
    if tags != ["kv_cache"]:
        with pytest.raises(InvalidRequest, match="weights"):
            engine.resume_memory_occupation(["kv_cache"])
        engine.resume_memory_occupation(["weights"])
        assert not asking.over
    engine.resume_memory_occupation()
    assert asking.wait() == old


def test_weights_can_be_replaced_while_memory_is_released(world: World) -> None:
    engine = world.engine
    engine.release_memory_occupation()
    engine.update_weights_from_disk("second")
    assert engine.stats()["paused"] == 1
    engine.resume_memory_occupation(["kv_cache"])
    assert world.ids() == fresh_ids(world.second, world.root)


def test_a_busy_engine_keeps_its_memory(world: World) -> None:
    engine = world.engine
    asking = Asking(engine, PROMPTS)
    until(lambda: engine.stats()["num_running"] == 3)
    with pytest.raises(InvalidRequest, match="retract"):
        engine.release_memory_occupation()
    engine.pause_generation("retract")
    engine.release_memory_occupation()
    engine.continue_generation()
    assert engine.stats()["paused"] == 1, "the memory is still missing"
    engine.resume_memory_occupation()
    assert [len(ids) for ids in asking.wait()] == [60, 60, 60]


def test_unknown_tags_are_refused(world: World) -> None:
    for call in (world.engine.release_memory_occupation, world.engine.resume_memory_occupation):
        with pytest.raises(InvalidRequest, match="allowed: weights, kv_cache"):
            call(["everything"])
    assert world.engine.stats()["paused"] == 0


def test_memory_really_leaves(world: World) -> None:
    parts = weakref.ref(world.engine._built.model), weakref.ref(world.engine._built.runner)
    assert all(part() is not None for part in parts)
    world.engine.release_memory_occupation()
    assert [part() for part in parts] == [None, None], "something still holds on to it"


def test_an_engine_that_was_shut_down_holds_nothing(world: World) -> None:
    """Whoever still has the object: another model may need the memory."""
    parts = weakref.ref(world.engine._built.model), weakref.ref(world.engine._built.runner)
    assert len(world.ids()) == len(PROMPTS)
    world.engine.shutdown()
    assert [part() for part in parts] == [None, None], "something still holds on to it"
