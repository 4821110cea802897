"""Whole steps of the TPU backend on torch's CPU device, by the kit's own cases."""

from collections.abc import Hashable, Iterator, Sequence

import pytest
from tests.unit.tpu.stand_ins import run_eagerly, stand_in
from torch import Tensor
from tupelo_tpu.pallas_shape import Shape
from tupelo_tpu.programs import Fn, Programs

from tupelo.conformance.case import Case, Status, run_case
from tupelo.conformance.levels.attention import attention_cases
from tupelo.conformance.levels.runner import runner_cases
from tupelo.conformance.levels.sampler import sampler_cases
from tupelo.conformance.target import Target

SLOW = ("sampler/distribution", "attention/geometry/heads_6")
XLA_ATTENTION = ("attention/mixed/page_16", "attention/window/mixed", "attention/latent/dim_24")


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs run as they are: XLA is not here."""
    kept: dict[int, dict[Hashable, tuple[list[Hashable], list[Hashable]]]] = {}

    def run(
        self: Programs, key: Hashable, fn: Fn, args: Sequence[Tensor], donated: Sequence[int] = ()
    ) -> list[Tensor]:
        return run_eagerly(kept.setdefault(id(self), {}), key, fn, args)

    monkeypatch.setattr(Programs, "run", run)


def _passes(cases: Iterator[Case], at_least: int = 10) -> None:
    chosen = [case for case in cases if not case.skip and not case.id.startswith(SLOW)]
    results = [run_case(case) for case in chosen]
    wrong = [f"{r.id}: {r.message}" for r in results if r.status is not Status.PASSED]
    assert not wrong, "\n".join(wrong)
    assert len(results) >= at_least


def test_whole_steps_pass_the_kit() -> None:
    _passes(runner_cases(Target(stand_in(pallas=False))))


def test_sampling_passes_the_kit() -> None:
    _passes(sampler_cases(Target(stand_in(pallas=False))))


def test_attention_of_xlas_own_ops_passes_the_kit() -> None:
    cases = attention_cases(Target(stand_in(pallas=False)))
    _passes((case for case in cases if case.id.startswith(XLA_ATTENTION)), len(XLA_ATTENTION))


def test_attention_in_the_layout_of_the_pallas_kernel_passes_the_kit() -> None:
    calls: list[Shape] = []
    _passes(attention_cases(Target(stand_in(pallas=True, calls=calls))))
    assert len(calls) > 100
    assert {shape.block for shape in calls} >= {8, 16}, "decode and prompts have their blocks"
