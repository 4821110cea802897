"""Which attention serves which layers: a vendor's, the portable kernels, or torch's reference.

The choice needs the types of q and of the pool, which the first ``forward`` brings; warm-up runs
one. What does not compile then, or differs from the reference, is passed over with a warning. Each
choice is logged once, with what was refused and why. Needs no triton until portable kernels are
asked for.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from traceback import walk_tb
from typing import Any, ClassVar

import torch
from torch import Tensor

from tupelo.backend import (
    AttentionBackend,
    HeadSplit,
    KVPool,
    Plan,
    ReferenceAttention,
    Runtime,
    StepInputs,
)
from tupelo.backend.graphs.cut import Begun
from tupelo.backend.trial import Trial
from tupelo.errors import CapabilityError
from tupelo.specs import AttentionSpec
from tupelo.triton.tuning import AttentionTuning

logger = logging.getLogger(__name__)

Refusal = str

DOES_NOT_COMPILE = "a kernel of it does not compile"
DIFFERS = "it is disabled"

Maker = Callable[[int, torch.dtype, torch.dtype], Refusal | None]
"""Builds an implementation for a spec and the types of q and of the pool into ``built``, unless it
is there, or says why not."""


@dataclass(slots=True)
class ChosenPlan:
    """One step's plans, by implementation; missing ones are made when a layer needs them."""

    inputs: StepInputs
    parts: dict[str, Plan] = field(default_factory=dict)


class ChosenAttention(AttentionBackend):
    """An implementation for each spec, chosen at its first ``forward``.

    An implementation other than the reference has, besides ``plan`` and ``forward``, ``attend(q,
    spec, layer, kv, plan)``: ``forward`` of tokens whose K/V are stored already, with ``sinks=``
    where the spec has some, and with ``(k, v)`` of the tokens where its plan has ``fresh`` set; and
    ``warmup(spec, layer, kv, dtype)``, which builds every kernel that it may need.

    Args:
        wanted: ``"auto"``, or the implementation that a user asked for with ``setting``.
        tuning: sizes of the portable kernels.
        others: as for every attention.

    Attributes:
        setting: name of the variable by which users choose.
        tries: whether an implementation is compared with the reference before it is used; then
            plans of a step under way must bear another being planned.
        portable: whether core's kernels can be compiled for the device.
        takes_heads: implementations that are given q, k and v as the op ``norm_rope_qkv`` splits
            them; for the others a portable kernel splits, and stores K/V at once.
        lacks: of each implementation, what of a spec it does not have: see ``features``.
        built: implementations that were built, by name.
    """

    setting: ClassVar[str]
    tries: ClassVar[bool] = False
    portable: bool = True
    takes_heads: ClassVar[frozenset[str]] = frozenset({"reference"})
    lacks: ClassVar[Mapping[str, frozenset[str]]]

    def __init__(
        self,
        wanted: str,
        tuning: AttentionTuning,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = True,
    ) -> None:
        self._wanted = wanted
        self._tuning = tuning
        self._specs = tuple(specs)
        self._page_size = page_size
        self._max_pages = max_pages
        self._runtime = runtime
        self._in_place = in_place
        self._chosen: dict[int, str] = {}
        self.built: dict[str, Any] = {}

    def vendors(self) -> dict[str, Maker]:
        """Implementations of the vendor's, best first."""
        return {}

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        plan = ChosenPlan(inputs) if out is None else out
        plan.inputs = inputs
        same = True
        for name in self.built:
            before = plan.parts.get(name)
            part = self.built[name]
            plan.parts[name] = part.plan(inputs) if before is None else part.plan(inputs, before)
            same &= before is None or plan.parts[name] is before
        return plan if same else ChosenPlan(inputs, dict(plan.parts))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        name, part = self._part(q.dtype, spec, layer, kv, plan)
        given = () if sinks is None else (sinks,)
        out: Tensor = self.built[name].forward(q, k, v, spec, layer, kv, part, *given)
        return out

    def forward_qkv(
        self,
        qkv: Tensor,
        positions: Tensor,
        split: HeadSplit,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
    ) -> Tensor:
        name, part = self._part(qkv.dtype, spec, layer, kv, plan)
        if not self._takes_stored(name):
            return super().forward_qkv(qkv, positions, split, spec, layer, kv, plan)
        more = {} if split.sinks is None else {"sinks": split.sinks}
        mapping = part.slot_mapping[self._specs[spec].group]
        if not getattr(part, "fresh", False):
            q = self._stored(qkv, positions, split, kv.buffers(layer), mapping)
            out: Tensor = self.built[name].attend(q, spec, layer, kv, part, **more)
            return out
        k, v = _new_kv(qkv, split)
        q = self._stored(qkv, positions, split, kv.buffers(layer), mapping, k)
        fresh: Tensor = self.built[name].attend(q, spec, layer, kv, part, (k, v), **more)
        return fresh

    def begin_qkv(
        self,
        qkv: Tensor,
        positions: Tensor,
        split: HeadSplit,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
    ) -> Begun | None:
        """As ``CutAttention.begin_qkv``, where the implementation has ``begin(q, spec, layer, kv,
        plan)``, which returns ``out``, and ``finish(begun, spec, layer, kv, plan)``."""
        name, part = self._part(qkv.dtype, spec, layer, kv, plan)
        begin = getattr(self.built[name], "begin", None)
        if begin is None or split.sinks is not None or not self._takes_stored(name):
            return None
        k, v = _new_kv(qkv, split)
        mapping = part.slot_mapping[self._specs[spec].group]
        q = self._stored(qkv, positions, split, kv.buffers(layer), mapping, k)
        return Begun(q, k, v, begin(q, spec, layer, kv, part))

    def finish_qkv(self, begun: Begun, spec: int, layer: int, kv: KVPool, plan: Plan) -> None:
        """As ``CutAttention.finish_qkv``."""
        name, part = self._part(begun.q.dtype, spec, layer, kv, plan)
        self.built[name].finish(begun, spec, layer, kv, part)

    def _takes_stored(self, name: str) -> bool:
        """Whether an implementation attends what a portable kernel has split and stored."""
        return self.portable and name not in self.takes_heads

    def _stored(
        self,
        qkv: Tensor,
        positions: Tensor,
        split: HeadSplit,
        buffers: tuple[Tensor, Tensor],
        mapping: Tensor,
        *k_out: Tensor,
    ) -> Tensor:
        """q of a packed product, whose k and v are stored."""
        norms = (split.q_norm, split.k_norm, split.eps)
        heads = (split.num_heads, split.num_kv_heads, split.head_dim)
        q: Tensor = self._store(
            qkv, positions, split.cos_sin, *norms, *heads, *buffers, mapping, *k_out
        )
        return q

    def _part(
        self, dtype: torch.dtype, spec: int, layer: int, kv: KVPool, plan: Plan
    ) -> tuple[str, Any]:
        """The implementation of a spec, and its part of the plan."""
        name = self._chosen.get(spec)
        if name is None:
            name = self._choose(spec, dtype, layer, kv)
            if self._takes_stored(name):
                from tupelo.triton.rope import norm_rope_qkv_store

                self._store = norm_rope_qkv_store
        if name not in plan.parts:
            plan.parts[name] = self.built[name].plan(plan.inputs)
        return name, plan.parts[name]

    def _choose(self, spec: int, dtype: torch.dtype, layer: int, kv: KVPool) -> str:
        """The best implementation for a spec that the options allow, warmed up and tried."""
        wanted, kv_dtype = self._wanted, kv.buffers(layer)[0].dtype
        vendors = self.vendors()
        makers: dict[str, Maker] = {
            **vendors,
            "triton": self._make_triton,
            "reference": self._make_reference,
        }
        names = [name for name in makers if wanted in ("auto", name)]
        if wanted != "auto" and self._lacking(wanted, spec):
            names.append("reference")
        refused: list[str] = []
        for name in names:
            reason = self._lacking(name, spec) or makers[name](spec, dtype, kv_dtype)
            if reason is None:
                reason = self._warm(name, spec, dtype, layer, kv)
            if reason is None:
                self._chosen[spec] = name
                said = f" ({'; '.join(refused)})" if refused else ""
                aloud = DOES_NOT_COMPILE in said or DIFFERS in said
                label = _label(self._specs[spec], dtype)
                level = logging.WARNING if aloud else logging.INFO
                logger.log(level, "attention of %s: %s%s", label, name, said)
                return name
            refused.append(f"not {name}: {reason}")
        if wanted in vendors:
            # Forced for what it can do: types and sizes that it does not have go elsewhere, aloud.
            logger.warning("%s; torch's reference serves it", refused[-1])
            self._make_reference()
            self._chosen[spec] = "reference"
            return "reference"
        raise CapabilityError(f"{self.setting}={wanted}: {'; '.join(refused)}")

    def _lacking(self, name: str, spec: int) -> Refusal | None:
        """What of a spec an implementation does not have."""
        missing = features(self._specs[spec]) & self.lacks.get(name, frozenset())
        return f"it has no {' and no '.join(sorted(missing))}" if missing else None

    def _warm(
        self, name: str, spec: int, dtype: torch.dtype, layer: int, kv: KVPool
    ) -> Refusal | None:
        """Try an implementation and build every kernel of it; how it differs, or what the compiler
        said where it failed."""
        if name == "reference":
            return None
        if self.tries:
            off = self._difference(name, spec, dtype, layer, kv)
            if off:
                return self._passed_over(name, f"{DIFFERS}: {off}")
        try:
            self.built[name].warmup(spec, layer, kv, dtype)
        except Exception as error:
            if not _from_compiler(error):
                raise
            first = str(error).strip().splitlines() or [type(error).__name__]
            return self._passed_over(name, f"{DOES_NOT_COMPILE}: {first[0]}")
        return None

    def _passed_over(self, name: str, reason: Refusal) -> Refusal:
        """``reason``; and no plans are made for what no other spec uses."""
        if name not in self._chosen.values():
            del self.built[name]
        return reason

    def _difference(self, name: str, spec: int, dtype: torch.dtype, layer: int, kv: KVPool) -> str:
        """How it differs from the reference on small inputs; "" if it does not."""
        kinds = self._specs
        trial = Trial(
            page_size=self._page_size,
            max_pages=self._max_pages,
            runtime=self._runtime,
            num_groups=1 + max(kind.group for kind in kinds),
            dtype=str(dtype).removeprefix("torch."),
            kv_dtype=str(kv.buffers(layer)[0].dtype).removeprefix("torch."),
        )
        plain = ReferenceAttention(kinds, self._page_size, self._max_pages, self._runtime)
        return trial.difference(self.built[name], plain, {spec: kinds[spec]})

    def _make_triton(self, *_: Any) -> Refusal | None:
        if not self.portable:
            return "there is no Triton for the device"
        try:
            from tupelo.triton.attention import TritonAttention
        except ImportError as error:
            return f"{error}"
        self.add("triton", partial(TritonAttention, tuning=self._tuning))
        return None

    def _make_reference(self, *_: Any) -> Refusal | None:
        self.add("reference", ReferenceAttention)
        return None

    def add(self, name: str, make: Callable[..., Any]) -> None:
        """Build an implementation with the arguments of every attention, unless it is there."""
        if name not in self.built:
            self.built[name] = make(
                self._specs, self._page_size, self._max_pages, self._runtime, self._in_place
            )


def _new_kv(qkv: Tensor, split: HeadSplit) -> tuple[Tensor, Tensor]:
    """k of a packed product's tokens, to be filled, and their v, which lies in it."""
    rows, dim = len(qkv), split.head_dim
    k = qkv.new_empty((rows, split.num_kv_heads, dim))
    return k, qkv.view(rows, -1, dim)[:, split.num_heads + split.num_kv_heads :]


def features(spec: AttentionSpec) -> frozenset[str]:
    """What not every implementation has."""
    asked = {
        "sinks": spec.sinks,
        "chunked windows": spec.chunked,
        "compressed K/V": spec.value_dim is not None,
        "windows": spec.window is not None,
        "soft caps": spec.soft_cap is not None,
    }
    return frozenset(name for name, is_asked in asked.items() if is_asked)


def _from_compiler(error: Exception) -> bool:
    """Whether Triton could not build a kernel, rather than the device or a launcher having failed.

    Its passes raise a bare RuntimeError, as much else does, so the place tells.
    """
    from triton.errors import TritonError

    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    places = [(f.f_globals.get("__name__"), f.f_code.co_name) for f in frames]
    return isinstance(error, TritonError) or ("triton.compiler.compiler", "compile") in places


def _label(spec: AttentionSpec, dtype: torch.dtype) -> str:
    window = f", window {spec.window}" if spec.window is not None else ""
    heads = f"{spec.num_heads}/{spec.num_kv_heads} heads of {spec.head_dim}"
    return f"{heads} in {str(dtype).removeprefix('torch.')}{window}"
