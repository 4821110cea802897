"""The ``certified`` profile certifies no backend that leaves a claim unproved.

test_green.py has one that it does certify.

A backend here has one flaw each, as the mutants of ``mutants.py``: the run of the kit is green, and
only the certificate is refused.
"""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.kit.mutants import BASE, MUTANTS
from torch import Tensor

from tupelo.backend import Backend, Capabilities, GraphGrade, Kernel
from tupelo.conformance import KnownFailure, Target, main, run_kit
from tupelo.conformance.certificate import NO_CLAIMS, claims, reasons_against, suite_digest

ANSWERS = "tests.kit.answers"
NAMED = replace(BASE, hardware="one good board")


def never(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    raise AssertionError("it refuses every call")


IDLE = Kernel(op="rms_norm", name="idle_norm", fn=never, supports=lambda call: "not today")

FLAWS: dict[str, tuple[Callable[[], Backend], str, str]] = {
    "stand_in": (lambda: BASE, "contract/record", "it ran on cpu, and the backend names no"),
    "idle_kernel": (
        lambda: replace(NAMED, kernels=(IDLE,)),
        "ops/rms_norm/",
        "claimed and not shown: kernel idle_norm: kernel idle_norm refuses: not today",
    ),
    "second_rank_nowhere": (
        lambda: _with(max_world_size=2, collective_library="gloo"),
        "collectives/",
        "claimed and not shown: max_world_size 2: collectives in float32: "
        "the backend exists in this process only",
    ),
    "chunks_without_windows": (
        lambda: _with(chunked=True, window=False),
        "attention/chunked_window/",
        "claimed and not shown: chunked: attention/chunked_window/*: "
        "the backend does not declare window",
    ),
}


def _with(**more: Any) -> Backend:
    return replace(NAMED, capabilities=replace(BASE.capabilities, **more))


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_claim_that_nothing_shows_is_no_certificate(flaw: str) -> None:
    make, only, reason = FLAWS[flaw]
    report = run_kit(Target(make()), only=only)
    assert not report.failed_ids
    found = reasons_against(report)
    assert any(r.startswith(reason) for r in found), found
    sound = reasons_against(run_kit(Target(NAMED), only=only))
    assert not any(r.startswith(reason) for r in sound)


def test_what_fails_is_named_and_what_is_known_to_fail_proves_nothing() -> None:
    broken = replace(MUTANTS["attention_sinks_of_another_head"].backend, hardware="one good board")
    report = run_kit(Target(broken), only="attention/sinks")
    assert "attention/sinks is red" in reasons_against(report)
    known = tuple(
        KnownFailure(name, "diluted", "https://example.org/17", date(2026, 1, 31))
        for name in report.failed_ids
    )
    report = run_kit(Target(broken), only="attention/sinks", known=known)
    assert not report.failed_ids
    assert "claimed and not shown: sinks: attention/sinks" in reasons_against(report)


def test_every_capability_is_a_claim_or_none_by_decision() -> None:
    everything = Capabilities(
        **{name: True for name in ("window", "chunked", "soft_cap", "sinks", "latent_kv")},
        page_sizes=(16,),
        head_dims=(64,),
        same_step_sharing=True,
        graph=GraphGrade.CAPTURED,
        prefix_group_tokens=1,
        batch_invariant=("float32",),
        pipeline_depth=2,
        max_world_size=2,
    )
    record = replace(BASE, capabilities=everything)
    names = {claim.what.split()[0].rstrip(":") for claim in claims(record)}
    assert {f.name for f in fields(Capabilities)} - NO_CLAIMS <= names
    assert all(claim.evidence for claim in claims(record))


def test_refusal_is_1_and_leaves_a_certificate_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--backend", f"{ANSWERS}:good", "--only", "contract/record"]
    assert main(args) == 0
    assert main([*args, "--profile", "certified", "--report", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "NOT CERTIFIED: only cases that begin with contract/record ran" in said
    data = json.loads((tmp_path / "certificate.json").read_text("utf-8"))
    assert data["certified"] is False
    assert all(f"NOT CERTIFIED: {reason}" in said for reason in data["reasons"])
    assert (data["backend"], data["device"]) == ("base", "cpu")
    assert data["how"].startswith("cpu")
    assert data["suite"] == {"sha256": suite_digest(), "cases": 1}
    assert data["groups"] == {"contract": {"passed": 1}}
    assert (tmp_path / "conformance.json").is_file()


def test_a_share_of_the_cases_is_no_certificate() -> None:
    half = run_kit(Target(NAMED), only="contract/", share=(1, 2))
    assert "only share 1 of 2 ran" in reasons_against(half)
    assert not any(
        r.startswith("only share")
        for r in reasons_against(run_kit(Target(NAMED), only="contract/"))
    )


def test_a_certificate_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", f"{ANSWERS}:good", "--profile", "certified"]) == 2
    assert "--report" in capsys.readouterr().err
