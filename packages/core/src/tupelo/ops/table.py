"""Which kernel serves which call: chosen when a model binds its ops, never in silence.

Layers call ``OpTable.bind`` once, after their weights are loaded, and keep the callable; a step
makes no choice. Every choice is recorded for ``doctor``, the start-up log and ``/server_info``.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tupelo.errors import CapabilityError
from tupelo.ops.spec import Kernel, OpCall, OpSpec, Tier, check_kernel
from tupelo.ops.weight import LinearWeight

_ORDER = {Tier.VENDOR: 0, Tier.PORTABLE: 1, Tier.REFERENCE: 2}


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of the kernel table.

    Attributes:
        call: what was bound. kernel: the kernel chosen. tier: its tier.
        refused: ``name: reason`` for each better candidate that said no.
    """

    call: OpCall
    kernel: str
    tier: Tier
    refused: tuple[str, ...]


class OpTable:
    """The kernels of one backend over the closed list of ops.

    Args:
        specs: the ops.
        kernels: the backend's kernels; earlier wins within a tier.
        fallback: ``"allow"``: the reference serves what no kernel supports; ``"forbid"``: such a
            call is an error at start-up.

    Raises:
        ContractError: a kernel breaks its op's signature.
    """

    def __init__(
        self,
        specs: Mapping[str, OpSpec],
        kernels: Sequence[Kernel] = (),
        *,
        fallback: str = "allow",
    ) -> None:
        self._specs = specs
        self._fallback = fallback
        self._candidates: dict[str, list[Kernel]] = {name: [] for name in specs}
        for kernel in kernels:
            check_kernel(kernel, specs)
            self._candidates[kernel.op].append(kernel)
        for candidates in self._candidates.values():
            candidates.sort(key=lambda k: _ORDER[k.tier])
        self._choices: dict[OpCall, Choice] = {}

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every choice made so far, in the order of binding."""
        return tuple(self._choices.values())

    def choose(self, call: OpCall) -> Kernel:
        """The best kernel for a call.

        Raises:
            CapabilityError: only the reference could serve it and fallback is forbidden.
        """
        refused: list[str] = []
        for kernel in self._candidates[call.op]:
            reason = kernel.supports(call)
            if reason is None and not _covers(kernel, call):
                reason = f"only up to {kernel.max_rows} rows"
            if reason is None:
                return self._record(call, kernel, refused)
            refused.append(f"{kernel.name}: {reason}")
        if self._fallback == "forbid":
            raise CapabilityError(
                f"no kernel for {call.op} {call.shape} in {call.dtype} and fallback is forbidden; "
                f"refused: {'; '.join(refused) or 'none'}. Set --kernel-fallback allow"
            )
        reference = Kernel(
            op=call.op, name="torch", fn=self._specs[call.op].reference, tier=Tier.REFERENCE
        )
        return self._record(call, reference, refused)

    def bind(
        self, call: OpCall, *, weights: Mapping[str, LinearWeight] | None = None
    ) -> Callable[..., Any]:
        """A callable for one place in a model.

        ``weights`` are the op's ``LinearWeight`` parameters by name: they are packed as the chosen
        kernel wants and closed over, so the callable takes the op's other parameters, by position
        in the op's order without the bound ones, or by name. Where kernels are limited to row
        buckets, the callable picks by the first tensor argument's number of rows, a host integer.
        """
        limits = sorted({k.max_rows for k in self._candidates[call.op] if k.max_rows is not None})
        bound: list[tuple[int | None, Callable[..., Any]]] = []
        for limit in [*limits, None]:
            kernel = self.choose(_at(call, limit))
            fn = _close_over(kernel, self._specs[call.op], weights or {})
            if bound and bound[-1][1] is fn:
                bound.pop()
            bound.append((limit, fn))
        return bound[0][1] if len(bound) == 1 else _by_rows(bound)

    def _record(self, call: OpCall, kernel: Kernel, refused: list[str]) -> Kernel:
        self._choices[call] = Choice(call, kernel.name, kernel.tier, tuple(refused))
        return kernel


def _covers(kernel: Kernel, call: OpCall) -> bool:
    if kernel.max_rows is None:
        return True
    return call.max_rows is not None and call.max_rows <= kernel.max_rows


def _at(call: OpCall, max_rows: int | None) -> OpCall:
    return OpCall(
        op=call.op,
        dtype=call.dtype,
        shape=call.shape,
        max_rows=max_rows,
        scheme=call.scheme,
        statics=call.statics,
    )


def _close_over(
    kernel: Kernel, spec: OpSpec, weights: Mapping[str, LinearWeight]
) -> Callable[..., Any]:
    if not weights:
        return kernel.fn
    names = list(inspect.signature(spec.reference).parameters)
    packed = {name: weight.packed(kernel.pack) for name, weight in weights.items()}
    first_bound = min(names.index(name) for name in packed)
    fn = kernel.fn
    if set(names[first_bound:]) == set(packed):  # bound ones come last: no keyword cost
        tail = tuple(packed[name] for name in names[first_bound:])
        return lambda *args: fn(*args, *tail)
    free = [name for name in names if name not in packed]

    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(**dict(zip(free, args, strict=False)), **kwargs, **packed)

    return call


def _by_rows(bound: list[tuple[int | None, Callable[..., Any]]]) -> Callable[..., Any]:
    def call(first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = first.shape[0]
        for limit, fn in bound:
            if limit is None or rows <= limit:
                return fn(first, *args, **kwargs)
        raise AssertionError("the last bucket has no limit")

    return call
