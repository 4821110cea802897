"""Every mutant turns the kit red, at the ids where its bug belongs and nowhere else."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from tests.kit.mutants import MUTANTS, Mutant, wrong_share

from tupelo.conformance import Status, Target, run_kit

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_turns_its_suite_red(mutant: Mutant) -> None:
    report = run_kit(Target(mutant.backend), only=mutant.only)
    assert not report.green
    failed = report.failed_ids
    for pattern in mutant.red:
        assert any(fnmatchcase(name, pattern) for name in failed), (pattern, failed)
    stray = [name for name in failed if not any(fnmatchcase(name, p) for p in mutant.red)]
    assert not stray
    passed = {result.id for result in report.having(Status.PASSED)}
    assert set(mutant.spared) <= passed


@pytest.mark.parametrize(
    "name", [n for n, mutant in MUTANTS.items() if not mutant.only.startswith("contract/")]
)
def test_a_mutant_of_a_higher_level_keeps_the_contract(name: str) -> None:
    report = run_kit(Target(MUTANTS[name].backend), [0])
    assert report.green, report.failed_ids


def test_a_wrong_collective_is_seen_by_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    report = run_kit(Target(wrong_share(), "tests.kit.mutants:wrong_share"), [4])
    assert report.failed_ids == ["collectives/float32/reduce_scatter"]
