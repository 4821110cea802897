"""The kit is green on the CPU backend and on both fakes, and looks at everything it should."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.kit.mutants import BASE

from tupelo.backend import CONTRACT_VERSION, Runtime, TorchRuntime, find_backend
from tupelo.conformance import Report, Status, Target, run_kit
from tupelo.conformance.certificate import certificate, reasons_against
from tupelo.conformance.levels.engine import COMBINATIONS
from tupelo.conformance.report import op_rows
from tupelo.ops import OPS

FAKES = "tupelo.conformance.fakes"


@pytest.fixture(scope="module")
def cpu() -> Report:
    return run_kit(Target(find_backend("cpu"), "cpu"))


def failures(report: Report) -> list[str]:
    return [f"{r.id}: {r.message}" for r in report.having(Status.FAILED, Status.UNEXPECTED_PASS)]


@pytest.mark.timeout(300)
def test_the_cpu_backend_is_green(cpu: Report) -> None:
    assert failures(cpu) == []
    assert cpu.green
    suites = {r.id.split("/")[0] for r in cpu.having(Status.PASSED)}
    assert suites == {
        *("contract", "ops", "attention", "ragged", "kv", "sampler", "runner", "engine"),
        "pooling",
        "collectives",
    }


@pytest.mark.timeout(300)
def test_the_cpu_backend_is_certified_on_its_own_hardware(cpu: Report) -> None:
    assert reasons_against(cpu) == []
    paper = certificate(cpu, "by hand")
    assert paper["certified"] is True
    assert paper["device"] == cpu.target.backend.hardware
    assert paper["counts"]["passed"] == len(cpu.having(Status.PASSED))
    assert paper["groups"]["attention/sinks"] == {"passed": 3}
    assert set(paper["ops"]) == set(OPS)


@pytest.mark.timeout(300)
def test_every_op_is_measured_in_every_dtype(cpu: Report) -> None:
    rows = op_rows(cpu)
    assert {r["op"] for r in rows} == set(OPS)
    assert {(r["op"], r["dtype"]) for r in rows} >= {
        (op, dtype)
        for op in OPS
        for dtype in cpu.target.backend.capabilities.dtypes
        if op != "sample_top_k_top_p"
    }
    assert all(r["tier"] in ("vendor", "portable", "reference") for r in rows)


@pytest.mark.timeout(300)
def test_every_kernel_is_run_or_says_why_not(cpu: Report) -> None:
    for kernel in cpu.target.backend.kernels:
        own = [r for r in cpu.results if r.id.endswith(f"/{kernel.name}") and r.level == 1]
        assert any(r.status is Status.PASSED for r in own)
        assert all(r.message for r in own if r.status is Status.SKIPPED)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["recording_backend", "hostile_backend"])
def test_the_fakes_are_green(name: str) -> None:
    from tupelo.conformance import fakes

    report = run_kit(Target(getattr(fakes, name)(), f"{FAKES}:{name}"), (0, 1, 2, 3))
    assert failures(report) == []
    assert report.green
    assert {r.level for r in report.having(Status.PASSED)} == {0, 1, 2, 3}


def test_a_backend_of_the_contract_before_is_served() -> None:
    older = replace(BASE, contract=CONTRACT_VERSION - 1)
    report = run_kit(Target(older), (0, 3), only="engine/llama/greedy")
    assert report.having(Status.PASSED)
    assert failures(report) == []
    assert run_kit(Target(older), [0]).green


class OldRuntime(Runtime):
    """A runtime with the methods of contract 0: what came since is inherited."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._new = TorchRuntime(device)

    def memory(self) -> tuple[int, int]:
        return self._new.memory()

    def synchronize(self) -> None:
        self._new.synchronize()

    def stream(self) -> Any:
        return self._new.stream()

    def event(self) -> Any:
        return self._new.event()

    def host_array(self, shape: Any, dtype: Any) -> Any:
        return self._new.host_array(shape, dtype)

    def to_device(self, array: Any) -> torch.Tensor:
        return self._new.to_device(array)

    def to_host(self, tensors: Any) -> Any:
        return self._new.to_host(tensors)


def test_a_part_of_the_contract_before_inherits_what_came_since() -> None:
    older = replace(BASE, contract=CONTRACT_VERSION - 1, runtime=OldRuntime)
    assert run_kit(Target(older), [0]).green
    report = run_kit(Target(older), [3], only="engine/llama/greedy")
    assert report.having(Status.PASSED)
    assert failures(report) == []


def test_what_is_not_declared_is_skipped_with_its_reason() -> None:
    has = replace(
        BASE.capabilities, window=False, soft_cap=False, same_step_sharing=False, page_sizes=(8,)
    )
    report = run_kit(Target(replace(BASE, capabilities=has)), [2], only="attention/")
    assert report.green
    skipped = {r.id: r.message for r in report.having(Status.SKIPPED)}
    assert skipped["attention/shared_in_the_same_step"].endswith("same_step_sharing")
    assert skipped["attention/window/chunks"].endswith("window")
    assert skipped["attention/soft_cap"].endswith("soft_cap")
    assert any(r.id == "attention/decode/page_8" for r in report.results)
    assert not any("page_16" in r.id for r in report.results)


def test_every_pair_of_engine_settings_occurs() -> None:
    values = [sorted(set(column)) for column in zip(*COMBINATIONS, strict=True)]
    assert values == [[False, True], [-1, 16, 64], [False, True], [1, 2], [False, True]]
    for i, first in enumerate(values):
        for j in range(i + 1, len(values)):
            together = {(row[i], row[j]) for row in COMBINATIONS}
            assert together == {(a, b) for a in first for b in values[j]}
