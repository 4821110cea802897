"""The sample backend of examples/: small, and green in the conformance kit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[3] / "examples" / "sample-backend" / "src"
PATH = f"{SOURCES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATH}


def test_it_is_under_300_lines() -> None:
    lines = sum(len(file.read_text().splitlines()) for file in SOURCES.rglob("*.py"))
    assert 0 < lines < 300


def kit(*args: str) -> None:
    """Run it in another process, which has the device for itself; it must be green."""
    command = [sys.executable, "-m", "tupelo.conformance", "--backend", "tupelo_sample:backend"]
    done = subprocess.run(
        [*command, *args],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sample: green" in done.stdout


def test_the_kit_is_green() -> None:
    kit("--level", "0,1,2")


def test_a_model_is_computed_on_its_device() -> None:
    kit("--level", "3", "--only", "engine/llama/greedy/cache")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_case_of_the_engine_is_green() -> None:
    kit("--level", "3")


def test_its_device_is_strict_and_may_be_taken() -> None:
    """No op takes tensors of both sides; where torch has such a device already, it says so."""
    code = (
        "import torch, tupelo_sample\n"
        "here, there = torch.ones(2), 'sample:0'\n"
        "backend = tupelo_sample.backend()\n"
        "print((here.to(there) + 1).cpu().tolist(), torch.tensor([1], device=there).device)\n"
        "try: here.to(there) + here\n"
        "except RuntimeError as error: print(error)\n"
        "torch._C._get_privateuse1_backend_name = lambda: 'other'\n"
        "print(tupelo_sample.backend().reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    moved, mixed, taken = done.stdout.splitlines()
    assert moved == "[2.0, 2.0] sample:0"
    assert mixed == "aten.add.Tensor: tensors on cpu and on sample:0"
    assert "is taken by 'other'; use an environment without that" in taken
