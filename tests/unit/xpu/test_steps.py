"""Whole steps of the backend's parts in an engine, on a device of PrivateUse1 kind that stands in
for a GPU: the tokens of the references.

Its libraries stand in too, in torch behind their real schemas; choosing, trying, planning, packing,
storing, capturing and sampling are real. In a process of its own: torch has room for one such
device.
"""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(600)  # whichever comes first runs all the engines

CASES = (
    *("dense", "moe", "wrong_attention", "not_compiled", "wrong_experts", "no_capture"),
    *("wrong_graph", "ipex"),
)


@lru_cache
def ran() -> dict[str, dict[str, Any]]:
    """What came of every case."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    script = Path(__file__).with_name("steps.py")
    done = subprocess.run(
        [sys.executable, str(script), *CASES],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {record["case"]: record for record in records}


def log(case: str) -> str:
    return "\n".join(ran()[case]["log"])


@pytest.mark.parametrize("case", CASES)
def test_the_tokens_are_the_references(case: str) -> None:
    assert ran()[case]["tokens"] == ran()[case]["want"]


@pytest.mark.parametrize("case", ["dense", "moe"])
def test_the_library_serves_and_steps_are_replayed(case: str) -> None:
    assert "attention of 4/2 heads of 64 in float16: vllm" in log(case)
    assert "disabled" not in log(case)
    assert ran()[case]["replays"] >= 4


def test_the_archived_library_serves_where_it_is_named() -> None:
    assert "attention of 4/2 heads of 64 in float16: ipex" in log("ipex")
    assert "disabled" not in log("ipex")


def test_a_wrong_attention_is_disabled_by_name_where_it_is_wrong() -> None:
    assert "window 6: reference (not vllm: it is disabled: it is off by" in log("wrong_attention")
    assert "heads of 64 in float16: vllm" in log("wrong_attention"), "without a window it is right"


def test_a_size_without_a_kernel_is_met_by_the_first_trial() -> None:
    assert "it is disabled: RuntimeError: Paged decode kernel not compiled" in log("not_compiled")


def test_a_wrong_kernel_is_disabled_by_name() -> None:
    assert "vllm_moe_experts is disabled in float16: sample typical" in log("wrong_experts")


def test_what_cannot_be_captured_runs_eagerly() -> None:
    assert "decode steps run eagerly: work_group_scratch_memory is not" in log("no_capture")
    assert ran()["no_capture"]["replays"] == 0


def test_a_graph_that_gives_something_else_is_not_replayed() -> None:
    assert "decode steps run eagerly: captured, they gave something else" in log("wrong_graph")
    assert ran()["wrong_graph"]["replays"] == 0
