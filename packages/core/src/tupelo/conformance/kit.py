"""Collecting the cases of all levels, running them, and the report that results."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tupelo.conformance.case import Case, Result, Status, run_case
from tupelo.conformance.known import KnownFailure, apply_known
from tupelo.conformance.levels.attention import attention_cases
from tupelo.conformance.levels.collectives import collectives_cases
from tupelo.conformance.levels.contract import contract_cases
from tupelo.conformance.levels.engine import engine_cases
from tupelo.conformance.levels.kv import kv_cases
from tupelo.conformance.levels.ops import ops_cases
from tupelo.conformance.levels.pooling import pooling_cases
from tupelo.conformance.levels.ragged import ragged_cases
from tupelo.conformance.levels.runner import runner_cases
from tupelo.conformance.levels.sampler import sampler_cases
from tupelo.conformance.target import Target

Suite = Callable[[Target], Iterator[Case]]

SUITES: dict[str, tuple[int, Suite]] = {
    "contract": (0, contract_cases),
    "ops": (1, ops_cases),
    "attention": (2, attention_cases),
    "ragged": (2, ragged_cases),
    "kv": (2, kv_cases),
    "sampler": (2, sampler_cases),
    "runner": (2, runner_cases),
    "engine": (3, engine_cases),
    "pooling": (3, pooling_cases),
    "collectives": (4, collectives_cases),
}
"""Suites by the first part of their cases' ids, each with its level."""


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one run.

    Attributes:
        target: what was tested. levels: which were run. results: in the order of running.
        only: what the ids of the cases that were run begin with; "" if all were.
        share: (k, n): of these, every nth from the kth on.
    """

    target: Target
    levels: tuple[int, ...]
    results: list[Result] = field(default_factory=list)
    only: str = ""
    share: tuple[int, int] = (1, 1)

    def having(self, *statuses: Status) -> list[Result]:
        """The results of these statuses."""
        return [r for r in self.results if r.status in statuses]

    @property
    def green(self) -> bool:
        """Whether nothing failed, nothing passed unexpectedly, and something passed."""
        bad = self.having(Status.FAILED, Status.UNEXPECTED_PASS)
        return not bad and bool(self.having(Status.PASSED))

    @property
    def failed_ids(self) -> list[str]:
        """The ids that make the report red."""
        return [r.id for r in self.having(Status.FAILED, Status.UNEXPECTED_PASS)]


def run_kit(
    target: Target,
    levels: Iterable[int] = (0, 1, 2, 3, 4),
    *,
    only: str = "",
    share: tuple[int, int] = (1, 1),
    known: tuple[KnownFailure, ...] = (),
    on_result: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Run the kit on a backend.

    Args:
        levels: which levels to run.
        only: run only cases whose id starts with this.
        share: (k, n): of these, every nth from the kth on, so that n processes run all.
        known: failures that are known; those of cases that are not chosen are ignored.
        on_result: called with each result as it comes, before ``known`` is applied.
    """
    chosen = tuple(sorted(set(levels)))
    results = []
    others = set()
    for index, case in enumerate(_cases(target, chosen, only)):
        if index % share[1] == share[0] - 1:
            results.append(run_case(case))
            on_result(results[-1])
        else:
            others.add(case.id)
    relevant = tuple(k for k in known if _selected(k.id, chosen, only) and k.id not in others)
    return Report(target, chosen, apply_known(results, relevant), only, share)


def _cases(target: Target, levels: tuple[int, ...], only: str) -> Iterator[Case]:
    """The cases of these levels whose id starts with ``only``, one by one."""
    for name, (level, suite) in SUITES.items():
        if level in levels:
            for case in _collect(name, level, suite, target):
                if case.id.startswith(only):
                    yield case


def _collect(name: str, level: int, suite: Suite, target: Target) -> Iterator[Case]:
    """A suite's cases; a part so broken that its cases cannot even be listed is one failed case."""
    try:
        yield from suite(target)
    except Exception as error:  # whatever a broken record raises becomes the case's failure
        failure = error

        def fail() -> None:
            raise failure

        yield Case(f"{name}/collect", level, fail)


def _selected(case_id: str, levels: tuple[int, ...], only: str) -> bool:
    suite = case_id.split("/")[0]
    return case_id.startswith(only) and (suite not in SUITES or SUITES[suite][0] in levels)
