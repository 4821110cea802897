"""Whole steps through ``torch.compile``, as TorchTPU is given them: each program is one graph."""

import pytest
from tests.unit.tpu.stand_ins import stand_in
from tupelo_tpu import programs

from tupelo.conformance.case import Status, run_case
from tupelo.conformance.levels.runner import runner_cases
from tupelo.conformance.target import Target

CASES = ("runner/prefill_decode", "runner/mixed", "runner/mask", "runner/scores", "runner/wanted")


def test_programs_are_graphs_that_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's own ops in the place of TorchTPU's compiler."""
    monkeypatch.setattr(programs, "COMPILER", "aot_eager")
    before = programs.num_graphs()
    cases = [case for case in runner_cases(Target(stand_in(pallas=False))) if case.id in CASES]
    results = [run_case(case) for case in cases]
    assert [r.id for r in results if r.status is Status.PASSED] == [case.id for case in cases]
    assert len(cases) == len(CASES)
    assert programs.num_graphs() > before
