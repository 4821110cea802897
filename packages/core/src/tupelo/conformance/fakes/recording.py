"""A backend that writes down every call of the contract: the proof that core has no dead hook."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from tupelo.backend import Backend, Capabilities, Kernel, Tier
from tupelo.ops import OPS

PRODUCTS = {"op.linear": 1, "op.add_norm_linear": 1, "op.gated_mlp": 2}
"""Products with weights in one call of an op."""


class RecordingFake:
    """The backend, and what it has seen.

    Args:
        base: whose parts are called; default: core's defaults on the CPU.

    Attributes:
        calls: ``part.method`` or ``op.name`` -> how often it was called; ``batch.prefix_groups``
            -> how many steps came with groups.
        steps: the same for each step; a step begins with ``runner.forward``.
        backend: the record.
    """

    def __init__(self, base: Backend | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.steps: list[Counter[str]] = []
        base = base or _defaults()
        covered = {kernel.op for kernel in base.kernels}
        missing = tuple(
            Kernel(op=op, name=f"torch_{op}", fn=spec.reference, tier=Tier.REFERENCE)
            for op, spec in OPS.items()
            if op not in covered
        )
        self.backend = replace(
            base,
            name="recording",
            kernels=tuple(
                replace(kernel, fn=self._recorded(f"op.{kernel.op}", kernel.fn))
                for kernel in (*base.kernels, *missing)
            ),
            attention=self._wrapped("attention", base.attention),
            kv_pool=self._wrapped("kv_pool", base.kv_pool),
            sampler=self._wrapped("sampler", base.sampler),
            runner=self._wrapped("runner", base.runner),
            collectives=self._wrapped("collectives", base.collectives),
            runtime=self._wrapped("runtime", base.runtime),
        )

    def products(self) -> list[int]:
        """Products with weights, in each step."""
        return [sum(n * step[op] for op, n in PRODUCTS.items()) for step in self.steps]

    def note(self, name: str) -> None:
        """Count a call."""
        if name == "runner.forward":
            self.steps.append(Counter())
        self.calls[name] += 1
        if self.steps:
            self.steps[-1][name] += 1

    def _recorded(self, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.note(name)
            if name == "runner.forward" and args[0].prefix_groups is not None:
                self.note("batch.prefix_groups")
            return fn(*args, **kwargs)

        return call

    def _wrapped(self, name: str, factory: Callable[..., Any]) -> Callable[..., Any]:
        def build(*args: Any) -> Any:
            return _Recorded(self, name, factory(*args))

        return build


class _Recorded:
    """A part whose method calls are noted; everything else is the part's own."""

    def __init__(self, fake: RecordingFake, name: str, part: Any) -> None:
        self._fake, self._name, self._part = fake, name, part

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._part, attribute)
        if not callable(value):
            return value
        return self._fake._recorded(f"{self._name}.{attribute}", value)


def recording_backend() -> Backend:
    """The recording backend, as an entry point would name it."""
    return RecordingFake().backend


def _defaults() -> Backend:
    return Backend(
        name="recording",
        device="cpu",
        capabilities=Capabilities(
            priority=-1,
            dtypes=("float32", "bfloat16", "float16"),
            same_step_sharing=True,
            plan_needs_host_lens=True,
            latent_kv=True,
            prefix_group_tokens=1,
        ),
    )
