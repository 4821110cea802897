"""Ahead of time for GPUs that aren't here: every launcher at an 8B model's sizes, in bfloat16."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.unit.triton.launches import LAUNCHES

import tupelo

ROOT = Path(__file__).resolve().parents[3]

SHARED_BYTES = {"sm_80": 166912, "sm_90": 232448, "gfx942": 65536}
"""Shared memory that one program may have."""

WITH_MATRIX = (
    "_decode_kernel",
    "_shared_kernel",
    "_extend_kernel",
    "_tile_kernel",
    "_experts_kernel",
)


@lru_cache
def compiled(target: str) -> list[dict[str, Any]]:
    """Everything that the launches launch, compiled in one process without the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("compiled.py")), target]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("target", SHARED_BYTES)
def test_fits_the_target(target: str, launch: str) -> None:
    kernels = [k for k in compiled(target) if k["launch"] == launch]
    assert kernels
    for kernel in kernels:
        assert kernel["shared"] <= SHARED_BYTES[target], kernel
        assert kernel["spills"] == 0, kernel
        in_float32 = "float32" in launch and target != "gfx942"
        if kernel["kernel"] in WITH_MATRIX and not in_float32:
            assert kernel["matrix"] > 0, f"{kernel}: no matrix instruction"


def test_every_kernel_is_launched() -> None:
    sources = (Path(tupelo.__path__[0]) / "triton").glob("*.py")
    named = {n for s in sources for n in re.findall(r"^def (_\w+_kernel)\(", s.read_text(), re.M)}
    assert len(named) > 20
    assert named == {k["kernel"] for k in compiled("sm_90")}
