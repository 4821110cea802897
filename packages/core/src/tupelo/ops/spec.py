"""What an op is: a name, a plain-torch reference, sample inputs and tolerances; and what a kernel
is.

Core owns the closed list of ops (``tupelo.ops.OPS``). A backend implements ops, it never invents
them: a ``Kernel`` has the signature of its op's reference, which is checked when it is registered.
    Must not
import anything of Tupelo above ``ops``.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tupelo.errors import ContractError
from tupelo.specs import NO_QUANT, QuantScheme


class Tier(StrEnum):
    """Where a kernel comes from, best first."""

    VENDOR = "vendor"
    PORTABLE = "portable"
    REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpCall:
    """What is known of a call when its kernel is chosen.

    Attributes:
        op: name of the op.
        dtype: of the activations.
        shape: the op's static sizes, in the order of ``OpSpec.call_axes``.
        max_rows: the row bucket: largest number of rows of the calls that the choice is for; None:
            any.
        scheme: quantisation of the weights.
        statics: the op's hashable options: ``activation`` (gated_mlp, mlp, moe_experts),
            ``qk_norm`` (norm_rope_qkv), ``scoring`` (moe_route), and ``("norm_dtype", "float32")``
            where a norm's weight stays float32.
    """

    op: str
    dtype: str
    shape: tuple[int, ...]
    max_rows: int | None = None
    scheme: QuantScheme = NO_QUANT
    statics: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One implementation of one op.

    Attributes:
        op: the op's name.
        name: the kernel's own name, for reports; unique in its backend.
        tier: vendor, portable or reference.
        fn: same parameter names, order and defaults as the op's reference.
        supports: None if it can serve the call, else the reason why not.
        pack: lays a ``LinearWeight`` out at load; ``fn`` is then called with what it returned.
            Kernels that share a layout share the function itself, so that the weight is packed
            once.
        max_rows: the kernel is only a candidate for row buckets up to this; None: all.
    """

    op: str
    name: str
    fn: Callable[..., Any]
    tier: Tier = Tier.VENDOR
    supports: Callable[[OpCall], str | None] = lambda call: None
    pack: Callable[[Any], Any] | None = None
    max_rows: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Largest allowed error against the reference in float32, and why that much.

    ``|got - want| <= absolute + relative * |want|`` for every element, after casting both to
    float32.
    """

    absolute: float
    relative: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One set of inputs for an op, made on the host in float32; the kit moves and casts them.

    Attributes:
        id: readable name, such as ``"one_row"`` or ``"strided"``.
        args: keyword arguments of the op's reference.
        call: what a kernel would be chosen by (dtype is filled in by the kit).
        scale: size of the outputs' terms; absolute tolerances are multiplied by it.
        float32_args: more arguments that stay float32, besides those of the op.
    """

    id: str
    args: Mapping[str, Any]
    call: OpCall
    scale: float = 1.0
    float32_args: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class OpSpec:
    """One op of the closed list.

    Attributes:
        name: the op.
        reference: plain torch, the definition. Tensor arguments of every op may be views whose last
            axis alone is contiguous; no argument is changed.
        samples: yields sample inputs, seeded.
        call_axes: what ``OpCall.shape`` holds for this op, in order.
        tolerances: by dtype name; one for all outputs, or one for each.
        exact_outputs: outputs are ids or copies, compared exactly with the reference in the same
            dtype.
        float32_args: arguments that are float32 whatever the dtype of the call.
        row_args: tensors with one row a token; a batch is cut along them.
    """

    name: str
    reference: Callable[..., Any]
    samples: Callable[[], Iterator[Sample]]
    call_axes: tuple[str, ...]
    tolerances: Mapping[str, tuple[Tolerance, ...]] = field(default_factory=dict)
    exact_outputs: bool = False
    float32_args: tuple[str, ...] = ()
    row_args: tuple[str, ...] = ()


def check_kernel(kernel: Kernel, specs: Mapping[str, OpSpec]) -> None:
    """Refuse a kernel whose op is unknown or whose signature differs from the op's reference.

    Raises:
        ContractError: says which parameter differs.
    """
    spec = specs.get(kernel.op)
    if spec is None:
        raise ContractError(
            f"kernel {kernel.name!r} implements {kernel.op!r}, which is no op of core; "
            f"ops: {', '.join(sorted(specs))}"
        )
    want = [(p.name, p.default) for p in inspect.signature(spec.reference).parameters.values()]
    got = [(p.name, p.default) for p in inspect.signature(kernel.fn).parameters.values()]
    if want != got:
        raise ContractError(
            f"kernel {kernel.name!r} of op {kernel.op!r} has parameters {_render(got)}; "
            f"the op has {_render(want)}"
        )


def _render(parameters: list[tuple[str, Any]]) -> str:
    empty = inspect.Parameter.empty
    return "(" + ", ".join(n if d is empty else f"{n}={d!r}" for n, d in parameters) + ")"
