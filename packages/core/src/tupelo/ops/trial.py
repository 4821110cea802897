"""A kernel's first run: on small samples of its op, against the reference.

``tried`` kernels serve a call only once they have given what the op is, in the call's type. One
that does not is disabled by name, with a warning; the next one serves. A kernel that a model never
needs is never run.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tupelo.ops.catalog import OPS
from tupelo.ops.compare import EXACT, compare, outputs_of
from tupelo.ops.inputs import reference_outputs, rounded
from tupelo.ops.spec import Kernel, OpCall, Sample
from tupelo.ops.weight import LinearWeight

logger = logging.getLogger(__name__)

SAMPLES = ("typical", "odd", "wide_norm")
"""What is run, where the kernel does not refuse it: one compilation each at most."""


class Trials:
    """What became of kernels on one device.

    Args:
        device: to run on. stream: what to run in.

    Attributes:
        disabled: why, by the kernel's name and the type.
    """

    def __init__(
        self, device: str, stream: Callable[[], AbstractContextManager[Any]] = torch.inference_mode
    ) -> None:
        self._device = torch.device(device)
        self._stream = stream
        self._reasons: dict[tuple[str, str], str] = {}

    @property
    def disabled(self) -> dict[tuple[str, str], str]:
        """Kernels that gave something else, with what."""
        return {key: reason for key, reason in self._reasons.items() if reason}

    def tried(self, kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
        """The kernels, each of which is run before it serves its first call of a type."""
        return tuple(replace(k, supports=partial(self._supports, k)) for k in kernels)

    def _supports(self, kernel: Kernel, call: OpCall) -> str | None:
        refused = kernel.supports(call)
        if refused is not None or not call.dtype:  # without a type, nothing is about to be served
            return refused
        key = (kernel.name, call.dtype)
        if key not in self._reasons:
            self._reasons[key] = self._try(kernel, call)
            if self._reasons[key]:
                logger.warning("%s is disabled in %s: %s", *key, self._reasons[key])
        reason = self._reasons[key]
        return f"it is disabled: {reason}" if reason else None

    def _try(self, kernel: Kernel, call: OpCall) -> str:
        """How it differs from the op; "" if it does not."""
        spec, ran = OPS[kernel.op], 0
        for sample in spec.samples():
            if sample.id not in SAMPLES or self._refuses(kernel, sample, call.dtype):
                continue
            ran += 1
            try:
                self._compare(kernel, sample, call.dtype)
            except Exception as error:  # a library, a compiler or a device may raise anything
                first = str(error).strip().splitlines() or [""]
                return f"sample {sample.id}: {type(error).__name__}: {first[0]}"
        return "" if ran else "no sample of the op is one that it serves"

    def _refuses(self, kernel: Kernel, sample: Sample, dtype: str) -> bool:
        first = next(v for v in sample.args.values() if isinstance(v, Tensor))
        if kernel.max_rows is not None and first.shape[0] > kernel.max_rows:
            return True
        known = replace(sample.call, dtype=dtype, max_rows=kernel.max_rows)
        return kernel.supports(known) is not None

    def _compare(self, kernel: Kernel, sample: Sample, dtype: str) -> None:
        spec = OPS[kernel.op]
        args = {
            n: v.packed(kernel.pack) if isinstance(v, LinearWeight) else v
            for n, v in rounded(spec, sample, dtype, self._device).items()
        }
        with torch.inference_mode(), self._stream():
            got = outputs_of(kernel.fn(**args))
        limits = (EXACT,) if spec.exact_outputs else spec.tolerances[dtype]
        compare(got, reference_outputs(spec, sample, dtype), limits, sample.scale)
