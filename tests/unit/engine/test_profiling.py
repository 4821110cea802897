"""Profiles of steps: begun and ended where asked, as files inside their folder and nowhere else."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.tiny import tiny_engine

from tupelo import Engine
from tupelo.errors import InvalidRequest

PARAMS = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with tiny_engine(profile_dir=str(tmp_path / "profiles"), pipeline_depth=1) as running:
        yield running


def embeddings_seen(file: Path) -> int:
    """How many steps a profile shows: each looks its tokens up once."""
    events: list[dict[str, Any]] = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return sum(event.get("name") == "aten::embedding" for event in events)


def run(engine: Engine) -> None:
    engine.generate(input_ids=[1, 2, 3], sampling_params=PARAMS)


def test_what_runs_between_start_and_stop(engine: Engine, tmp_path: Path) -> None:
    run(engine)
    engine.start_profile(output_dir="mine", prefix="step", with_stack=True, record_shapes=True)
    run(engine)
    name = engine.stop_profile()
    assert name.startswith("mine/step-")
    run(engine)
    assert embeddings_seen(tmp_path / "profiles" / name) == 8


def test_so_many_steps_from_one_on(engine: Engine, tmp_path: Path) -> None:
    step = engine.stats()["steps"]
    engine.start_profile(start_step=step + 4, num_steps=3, activities=["CPU"])
    run(engine)
    (file,) = (tmp_path / "profiles").iterdir()
    assert embeddings_seen(file) == 3
    with pytest.raises(InvalidRequest, match="no profile"):
        engine.stop_profile()
    engine.start_profile(start_step=10_000)
    assert engine.stop_profile() == ""


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"output_dir": "../elsewhere"}, "output_dir"),
        ({"output_dir": "/tmp"}, "output_dir"),
        ({"output_dir": "a\0b"}, "output_dir"),
        ({"output_dir": "x" * 300}, "output_dir"),
        ({"prefix": "../x"}, "profile_prefix"),
        ({"activities": ["MEM"]}, "activities"),
        ({"num_steps": 0}, "num_steps"),
        ({"start_step": -1}, "start_step"),
    ],
    ids=str,
)
def test_refusals(engine: Engine, options: dict[str, Any], param: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.start_profile(**options)
    assert caught.value.param == param
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []
    engine.start_profile()
    with pytest.raises(InvalidRequest, match="already"):
        engine.start_profile()


def test_off_unless_a_folder_is_set() -> None:
    with tiny_engine() as engine, pytest.raises(InvalidRequest, match="--profile-dir"):
        engine.start_profile()


FORGOTTEN = """
import sys
from tests.unit.engine.tiny import tiny_engine
with tiny_engine(profile_dir=sys.argv[1]) as engine:
    engine.start_profile()
    engine.generate(input_ids=[1, 2, 3], sampling_params={"max_new_tokens": 4, "ignore_eos": True})
"""


def test_one_that_nobody_stops_is_written_when_the_engine_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORGOTTEN, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    (file,) = tmp_path.iterdir()
    assert embeddings_seen(file) == 4
