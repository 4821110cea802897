"""What the pipelines of accelerators have in common: parts, exit codes, and one report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
VENDORS = sorted(p.parent.name for p in (ROOT / "ci").glob("*/pipeline.yml"))

PIPELINE = """
set -euo pipefail
. {root}/ci/pipeline.sh
pipeline glow "$@"
environment host "a requirement that is not looked at"
part says "$python" -c 'print("hello")'
part writes "$python" -c 'import sys; open(sys.argv[1], "w").write("[3]")' "$out/numbers.json"
[ -z "$no_device" ] || part fails "$python" -c 'raise SystemExit(7)'
part goes_on "$python" -c 'import sys; print(sys.argv[1:])' "${{kit_arguments[@]}}"
finish
"""


def run_glow(folder: Path, *args: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of a pipeline of four parts."""
    script = folder / "run.sh"
    script.write_text(PIPELINE.format(root=ROOT))
    known = {"OUT": str(folder / "out"), "PYTHON_HOST": sys.executable}
    done = subprocess.run(
        ["bash", str(script), *args],
        env=os.environ | known | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_parts_are_joined_into_one_report(tmp_path: Path) -> None:
    code, out = run_glow(tmp_path, "--only", "ops/")
    assert code == 0, out
    report = json.loads((tmp_path / "out" / "glow.json").read_text())
    assert report["failed"] == []
    assert {name: part["exit_code"] for name, part in report["parts"].items()} == {
        "says": 0,
        "writes": 0,
        "goes_on": 0,
    }
    assert report["numbers"] == [3]
    assert "tupelo-core" in report["versions"]
    assert (tmp_path / "out" / "says.log").read_text() == "hello\n"
    assert (tmp_path / "out" / "goes_on.log").read_text() == "['--only', 'ops/']\n"


def test_a_part_that_fails_fails_the_pipeline_at_its_end(tmp_path: Path) -> None:
    code, out = run_glow(tmp_path, "--no-device")
    assert code == 1, out
    report = json.loads((tmp_path / "out" / "glow.json").read_text())
    assert report["failed"] == ["fails"]
    assert report["parts"]["fails"]["exit_code"] == 7
    assert (tmp_path / "out" / "goes_on.log").read_text() == "[]\n"


def test_some_parts_alone_and_none(tmp_path: Path) -> None:
    code, out = run_glow(tmp_path, "--no-device", PARTS="says")
    assert code == 0, out
    assert not (tmp_path / "out" / "goes_on.log").exists()
    code, out = run_glow(tmp_path, PARTS="sings")
    assert code == 1
    assert "no part ran" in out


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_workflow_calls_the_script_and_nothing_else(vendor: str) -> None:
    workflow = yaml.safe_load((ROOT / "ci" / vendor / "pipeline.yml").read_text("utf-8"))
    commands = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    script = ROOT / "ci" / vendor / "run.sh"
    assert any(command.endswith("run.sh --no-device") for command in commands)
    assert any(command.endswith("run.sh") for command in commands)
    for command in commands:
        called = next(word for word in command.split() if "=" not in word)
        assert (ROOT / called).parent == script.parent, command
        assert os.access(ROOT / called, os.X_OK), called
    assert "ci/pipeline.sh" in script.read_text("utf-8")
    uploads = [s for j in workflow["jobs"].values() for s in j["steps"] if "upload" in str(s)]
    assert len(uploads) == len(workflow["jobs"])
