"""Every backend of the workspace, without its vendor's library, leaves core as it was."""

import json
import os
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)

SCRIPT = ROOT / "ci" / "backends_apart.py"

INTRUDER = """
from tupelo import ops
from tupelo.backend import Unavailable, contract


def {name}():
    {deed}
    return Unavailable("nothing here")
"""
DEEDS = {
    "replaces_a_function": "ops.check_kernel = lambda kernel, table: None",
    "patches_a_class": "contract.Capabilities.declares = lambda self, name: True",
    "adds_to_a_table": "ops.OPS['own_op'] = None",
    "swaps_code": "contract.check_part.__code__ = (lambda name, part: None).__code__",
}


def sources() -> dict[str, str]:
    """Backends by name as ``module:function``, of all packages in the workspace."""
    found = {}
    for file in sorted((ROOT / "packages").glob("backend-*/pyproject.toml")):
        project = tomllib.loads(file.read_text("utf-8"))["project"]
        found |= project["entry-points"]["tupelo.backends"]
    return found


def ask(*backends: str, path: str = "") -> list[dict[str, Any]]:
    """What the script says of backends, all asked in one process."""
    folders = [*(str(p) for p in (ROOT / "packages").glob("*/src")), path]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *backends],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(backends), done.stderr
    assert done.returncode == (0 if all(f["passed"] for f in found) else 1)
    return found


@cache
def together() -> dict[str, dict[str, Any]]:
    """All backends of the workspace, in one process."""
    return {found["backend"]: found for found in ask(*sources().values())}


@pytest.mark.parametrize("name", sources())
def test_it_says_why_it_is_unavailable_and_touches_nothing_of_core(name: str) -> None:
    found = together()[sources()[name]]
    assert found["wrong"] == []
    assert found["core_modules"] > 100
    assert bool(found["reason"]) == (name != "cpu")


def test_what_touches_core_is_seen(tmp_path: Path) -> None:
    for name, deed in DEEDS.items():
        (tmp_path / f"{name}.py").write_text(INTRUDER.format(name=name, deed=deed))
    backends = [f"{name}:{name}" for name in DEEDS]
    for found in ask(*backends, path=str(tmp_path)):
        assert found["reason"] == "nothing here"
        (wrong,) = found["wrong"]
        assert wrong.startswith("it changed tupelo."), found
