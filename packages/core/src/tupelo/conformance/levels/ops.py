"""Level 1: every op against its reference in float32, through each kernel and the chosen one.

Inputs are rounded to the call's dtype first; the reference then computes from the rounded values in
float32 on the host, so a kernel answers for its own roundings only. Copies and ids are exact.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from tupelo.backend import Runtime
from tupelo.conformance.case import Case, Measured, check
from tupelo.conformance.target import Target
from tupelo.ops import OPS, Kernel, LinearWeight, OpCall, OpSpec, OpTable, Sample, Tier
from tupelo.ops.compare import EXACT, compare, outputs_of
from tupelo.ops.inputs import reference_outputs, rounded
from tupelo.ops.samples_elementwise import Alone


def ops_cases(target: Target) -> Iterator[Case]:
    """The cases of level 1: ``ops/OP/DTYPE/SAMPLE/KERNEL``; ``chosen`` is what a model gets."""
    for spec in OPS.values():
        for dtype in _dtypes(spec, target):
            for sample in spec.samples():
                yield from _sample_cases(target, spec, dtype, sample)
            yield _invariance_case(target, spec, dtype)


def _dtypes(spec: OpSpec, target: Target) -> tuple[str, ...]:
    """The backend's dtypes, or float32 alone for an op all of whose floats are float32."""
    sample = next(spec.samples())
    floats = {n for n, v in sample.args.items() if isinstance(v, Tensor) and v.is_floating_point()}
    if floats and floats <= set(spec.float32_args):
        return ("float32",)
    return target.backend.capabilities.dtypes


def _sample_cases(target: Target, spec: OpSpec, dtype: str, sample: Sample) -> Iterator[Case]:
    backend = target.backend
    call = replace(sample.call, dtype=dtype)
    prefix = f"ops/{spec.name}/{dtype}/{sample.id}"
    if call.scheme.name not in backend.capabilities.quant_schemes:
        skip = f"the backend does not declare the scheme {call.scheme.name}"
        yield Case(f"{prefix}/chosen", 1, lambda: None, skip)
        return
    trial = _Trial(target, spec, sample, call)
    yield Case(f"{prefix}/chosen", 1, trial.chosen)
    for kernel in backend.kernels:
        if kernel.op == spec.name:
            reason = _refusal(kernel, call, trial.rows)
            skip = f"kernel {kernel.name} refuses: {reason}" if reason else ""
            yield Case(f"{prefix}/{kernel.name}", 1, partial(trial.kernel, kernel), skip)


def _refusal(kernel: Kernel, call: OpCall, rows: int) -> str | None:
    if kernel.max_rows is not None:
        if rows > kernel.max_rows:
            return f"only up to {kernel.max_rows} rows"
        call = replace(call, max_rows=kernel.max_rows)
    return kernel.supports(call)


@dataclass(frozen=True, slots=True)
class _Trial:
    """One sample in one dtype on one backend."""

    target: Target
    spec: OpSpec
    sample: Sample
    call: OpCall

    @property
    def rows(self) -> int:
        """Rows of the op's first tensor argument, by which row-limited kernels are picked."""
        first = next(v for v in self.sample.args.values() if isinstance(v, Tensor))
        return int(first.shape[0])

    def chosen(self) -> Measured:
        """Through the table, as a layer binds it."""
        table = OpTable(OPS, self.target.backend.kernels)
        args = device_args(self.target, self.spec, self.sample, self.call.dtype)
        weights = {n: v for n, v in args.items() if isinstance(v, LinearWeight)}
        bound = table.bind(self.call, weights=weights)
        free = {n: v for n, v in args.items() if n not in weights}
        choice = _choice_for(table, self.rows)
        first, *rest = free.values()
        got = self._run(lambda: bound(first, *rest), free, choice)
        return self._measure(got, choice.name, choice.tier, chosen=True)

    def kernel(self, kernel: Kernel) -> Measured:
        """Through one kernel, chosen or not."""
        args = device_args(self.target, self.spec, self.sample, self.call.dtype)
        packed = {
            n: v.packed(kernel.pack) if isinstance(v, LinearWeight) else v for n, v in args.items()
        }
        got = self._run(lambda: kernel.fn(**packed), args, kernel)
        return self._measure(got, kernel.name, kernel.tier, chosen=False)

    def _run(self, run: Callable[[], Any], args: Mapping[str, Any], kernel: Kernel) -> Any:
        """Run it, and see that it changed no argument and did not hand the work to the
        reference."""
        before = {n: v.clone() for n, v in args.items() if isinstance(v, Tensor)}
        with torch.inference_mode(), _runtime(self.target).stream():
            got, called = run_watched(run, self.spec.reference)
        check(
            kernel.tier is Tier.REFERENCE or not called,
            f"kernel {kernel.name!r} calls itself {kernel.tier}, but ran the op's torch reference; "
            "refuse such calls in supports()",
        )
        for name, old in before.items():
            same = torch.equal(args[name], old)
            check(same, f"kernel {kernel.name!r} changed its argument {name!r}")
        return got

    def _measure(self, got: Any, kernel: str, tier: Tier, *, chosen: bool) -> Measured:
        want = reference_outputs(self.spec, self.sample, self.call.dtype)
        limits = (EXACT,) if self.spec.exact_outputs else self.spec.tolerances[self.call.dtype]
        error, share = compare(outputs_of(got), want, limits, self.sample.scale)
        name, dtype = self.spec.name, self.call.dtype
        return Measured(name, dtype, kernel, tier, chosen, error, share)


def _choice_for(table: OpTable, rows: int) -> Kernel:
    """The kernel that a callable bound just now uses for so many rows."""
    choices = [c for c in table.choices if c.call.max_rows is None or rows <= c.call.max_rows]
    best = min(choices, key=lambda c: c.call.max_rows if c.call.max_rows is not None else 1 << 62)
    return table.choose(best.call)


def run_watched(run: Callable[[], Any], reference: Callable[..., Any]) -> tuple[Any, bool]:
    """What ``run`` returns, and whether it called ``reference`` on the way."""
    code = getattr(reference, "__code__", None)
    called = False

    def watch(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal called
        called = called or (event == "call" and frame.f_code is code)

    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        value = run()
    finally:
        sys.setprofile(previous)
    return value, called


def device_args(target: Target, spec: OpSpec, sample: Sample, dtype: str) -> dict[str, Any]:
    """A sample's arguments in ``dtype`` on the device; views stay views, with NaN in the gaps."""
    group = target.backend.collectives(None)
    moved = rounded(spec, sample, dtype, _runtime(target).device)
    return {n: group if isinstance(v, Alone) else v for n, v in moved.items()}


def _runtime(target: Target) -> Runtime:
    return target.backend.runtime(target.backend.device)


def _invariance_case(target: Target, spec: OpSpec, dtype: str) -> Case:
    skip = ""
    if dtype not in target.backend.capabilities.batch_invariant:
        skip = f"the backend does not declare batch_invariant in {dtype}"
    elif not spec.row_args:
        skip = "the op has no rows"
    run = partial(_invariant, target, spec, dtype)
    return Case(f"ops/{spec.name}/{dtype}/batch_invariant", 1, run, skip)


def _invariant(target: Target, spec: OpSpec, dtype: str) -> None:
    """Each row alone, and the first half together, give the bits that they give in the batch."""
    for sample in spec.samples():
        args = device_args(target, spec, sample, dtype)
        rows = args[spec.row_args[0]].shape[0]
        if rows < 2:
            continue
        table = OpTable(OPS, target.backend.kernels)
        weights = {n: v for n, v in args.items() if isinstance(v, LinearWeight)}
        bound = table.bind(replace(sample.call, dtype=dtype), weights=weights)
        free = {n: v for n, v in args.items() if n not in weights}
        with torch.inference_mode(), _runtime(target).stream():
            whole = outputs_of(bound(*free.values()))
            for part in (*(slice(r, r + 1) for r in range(min(rows, 4))), slice(0, rows // 2)):
                cut = {
                    n: v[part] if n in spec.row_args and isinstance(v, Tensor) else v
                    for n, v in free.items()
                }
                for got, want in zip(outputs_of(bound(*cut.values())), whole, strict=True):
                    check(
                        torch.equal(got, want[part]),
                        f"rows {part.start}:{part.stop} of sample {sample.id} differ when alone",
                    )
