"""docs/support-matrix.md says what the kit's reports say, and nothing that they do not."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor

from tupelo.backend import Backend, Capabilities, Kernel
from tupelo.conformance import Target, run_kit
from tupelo.conformance.report import as_json

ROOT = Path(__file__).resolve().parents[3]


def script(name: str) -> ModuleType:
    """A script of ci/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page, summary = script("support_page"), script("support_summary")


def wrong(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x + weight


def glow_silu_mul(x: Tensor) -> Tensor:
    size = x.shape[-1] // 2
    return F.silu(x[..., :size]) * x[..., size:]


def report(levels: tuple[int, ...], only: str = "", **record: Any) -> Any:
    """The kit's, as JSON, of core's defaults on the CPU with some changes."""
    record.setdefault("capabilities", Capabilities(plan_needs_host_lens=True, window=False))
    backend = Backend(name="glow", device="cpu", **record)
    return json.loads(json.dumps(as_json(run_kit(Target(backend), levels, only=only))))


def column(*reports: Any, how: str = "") -> Any:
    return {**summary.summarise(list(reports)), "device": "a glow", "how": how}


def cell(of: Any, area: str, feature: str) -> str:
    text: str = page.feature_cell(of, area, page.FEATURES[area][feature])
    return text


def test_page_is_up_to_date_and_leaves_nothing_out() -> None:
    command = [sys.executable, str(ROOT / "ci" / "support_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cells_are_what_the_kit_reported() -> None:
    ran = column(report((0,)), report((2,), only="attention/window"))
    assert ran["levels"] == [0, 2]
    assert cell(ran, "Attention", "sliding windows") == "refused"
    assert cell(ran, "Contract", "record, discovery, parts, order, copies") == "passed on hardware"
    assert cell(ran, "Attention", "sinks") == "not run"
    assert cell(ran, "Collectives", "two ranks") == "not run"
    assert page.op_cell(ran, "rms_norm") == "not run"


def test_a_failure_outweighs_passes() -> None:
    whole = report((2,), only="attention/soft_cap")
    assert cell(column(whole), "Attention", "soft caps") == "passed on hardware; partly refused"
    whole["cases"][0] |= {"status": "failed", "message": "off by 2"}
    assert cell(column(whole), "Attention", "soft caps") == "**failed** (1 of 1 cases)"
    whole["cases"][0] |= {"status": "known failure"}
    assert cell(column(whole), "Attention", "soft caps") == "known failure (1 of 1 cases)"


def test_ops_say_who_serves_them() -> None:
    kernels = (
        Kernel(op="rms_norm", name="glow_rms_norm", fn=wrong),
        Kernel(op="silu_mul", name="glow_silu_mul", fn=glow_silu_mul),
    )
    names = ("rms_norm", "silu_mul", "embedding")
    parts = [report((1,), only=f"ops/{name}/", kernels=kernels) for name in names]
    merged = {**parts[0], "cases": [], "ops": []}
    for part in parts:
        merged["cases"] += part["cases"]
        merged["ops"] += part["ops"]
    ran = column(merged, how="a simulator")
    assert page.op_cell(ran, "rms_norm") == "**failed** in float32"
    assert page.op_cell(ran, "silu_mul") == "passed without hardware (a simulator)"
    assert page.op_cell(ran, "embedding") == "reference"


def test_shares_of_a_level_make_one_column() -> None:
    kernels = (Kernel(op="rms_norm", name="glow_rms_norm", fn=wrong),)
    backend = Backend(
        name="glow", device="cpu", kernels=kernels, capabilities=Capabilities(window=False)
    )
    only = "ops/rms_norm/float32/"
    shares = [as_json(run_kit(Target(backend), (1,), only=only, share=(k, 2))) for k in (1, 2)]
    whole = as_json(run_kit(Target(backend), (1,), only=only))
    for order in (shares, shares[::-1]):
        ran = column(*json.loads(json.dumps(order)))
        assert ran["groups"] == column(json.loads(json.dumps(whole)))["groups"]
        assert page.op_cell(ran, "rms_norm") == "**failed** in float32"


def test_reports_that_do_not_belong_together_are_refused() -> None:
    one = report((0,), only="contract/record")
    other = {**one, "backend": {**one["backend"], "name": "other"}}
    with pytest.raises(ValueError, match="reports of 2 backends: glow, other"):
        summary.summarise([one, other])
    with pytest.raises(ValueError, match="level 0: not each share once"):
        summary.summarise([one, one])
    with pytest.raises(ValueError, match="level 0: not each share once"):
        summary.summarise([{**one, "share": [1, 2]}])
    with pytest.raises(ValueError, match="reports of 0 backends"):
        summary.summarise([])


def test_a_pipelines_json_and_its_proofs(tmp_path: Path) -> None:
    one = report((0,), only="contract/record")
    joined = {"conform": {"exit_code": 0, "report": one}, "late": {"a": {"ok": True}, "b": None}}
    file = tmp_path / "joined.json"
    file.write_text(json.dumps({**joined, "parts": [{"passed": True}, {"passed": False}]}))
    out = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "ci" / "support_summary.py"), str(file)]
    asked = ["--device", "a glow", "--date", "2026-01-31", "--command", "ci/run.sh"]
    proofs = [f"--proof={what}={file}#{what}" for what in ("conform", "late", "parts")]
    missing = "--not-run=its other route=there is no glow"
    subprocess.run([*command, *asked, *proofs, missing, "--out", str(out)], check=True)
    made = json.loads(out.read_text())
    assert made["groups"] == {"contract": {"passed": 1}}
    counted = [(p["what"], p["passed"], p["failed"]) for p in made["proofs"] if "passed" in p]
    assert counted == [("conform", 1, 0), ("late", 1, 0), ("parts", 1, 1)]
    rendered = page.render([made])
    assert "| `glow`: a glow | parts | **failed** (1 of 2) |" in rendered
    assert "| `glow`: a glow | late | passed on hardware |" in rendered
    assert "| `glow`: a glow | its other route | not run: there is no glow |" in rendered
    refused = [*command, *asked, f"--proof=x={file}#nothing", "--out", str(out)]
    assert subprocess.run(refused, capture_output=True, check=False).returncode != 0


def test_a_backend_without_a_report_was_not_run() -> None:
    rendered = page.render([{"backend": "glow", "groups": {}, "ops": {}}])
    body = rendered.partition("## Features")[2]
    assert "passed" not in body
    assert body.count("| not run |") > 30
