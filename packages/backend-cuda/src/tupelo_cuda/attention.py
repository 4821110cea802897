"""Which attention serves which layers: FlashInfer with Triton, Triton alone, or torch's reference.

The choice needs the types of q and of the pool, which the first ``forward`` brings; warm-up runs
one. What does not compile then is passed over, with a warning. Each choice is logged once, with
what was refused and why.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from traceback import walk_tb
from typing import Any

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
from tupelo.errors import CapabilityError
from tupelo.specs import AttentionSpec
from tupelo_cuda.options import Options

logger = logging.getLogger(__name__)

Refusal = str

DOES_NOT_COMPILE = "a kernel of it does not compile"


@dataclass(slots=True)
class CudaPlan:
    """One step's plans, by implementation; missing ones are made when a layer needs them."""

    inputs: StepInputs
    parts: dict[str, Plan] = field(default_factory=dict)


class CudaAttention(AttentionBackend):
    """An implementation for each spec, chosen at its first ``forward``."""

    def __init__(
        self,
        options: Options,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = True,
    ) -> None:
        self._options = options
        self._specs = tuple(specs)
        self._page_size = page_size
        self._max_pages = max_pages
        self._runtime = runtime
        self._in_place = in_place
        self._chosen: dict[int, str] = {}
        self._built: dict[str, Any] = {}

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        plan = CudaPlan(inputs) if out is None else out
        plan.inputs = inputs
        same = True
        for name in self._built:
            before = plan.parts.get(name)
            part = self._built[name]
            plan.parts[name] = part.plan(inputs) if before is None else part.plan(inputs, before)
            same &= before is None or plan.parts[name] is before
        return plan if same else CudaPlan(inputs, dict(plan.parts))

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
        out: Tensor = self._built[name].forward(q, k, v, spec, layer, kv, part, *given)
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
        if name == "reference":
            return super().forward_qkv(qkv, positions, split, spec, layer, kv, plan)
        heads = (split.num_heads, split.num_kv_heads, split.head_dim)
        norms = (split.q_norm, split.k_norm, split.eps)
        cache = (*kv.buffers(layer), part.slot_mapping[self._specs[spec].group])
        if not getattr(part, "fresh", False):
            q = self._store(qkv, positions, split.cos_sin, *norms, *heads, *cache)
            out: Tensor = self._built[name].attend(q, spec, layer, kv, part)
            return out
        k = qkv.new_empty((len(qkv), *heads[1:]))
        v = qkv.view(len(qkv), -1, heads[2])[:, heads[0] + heads[1] :]
        q = self._store(qkv, positions, split.cos_sin, *norms, *heads, *cache, k)
        fresh: Tensor = self._built[name].attend(q, spec, layer, kv, part, (k, v))
        return fresh

    def _part(
        self, dtype: torch.dtype, spec: int, layer: int, kv: KVPool, plan: Plan
    ) -> tuple[str, Any]:
        """The implementation of a spec, and its part of the plan."""
        name = self._chosen.get(spec)
        if name is None:
            name = self._choose(spec, dtype, layer, kv)
            if name != "reference":
                from tupelo.triton.rope import norm_rope_qkv_store

                self._store = norm_rope_qkv_store
        if name not in plan.parts:
            plan.parts[name] = self._built[name].plan(plan.inputs)
        return name, plan.parts[name]

    def _choose(self, spec: int, dtype: torch.dtype, layer: int, kv: KVPool) -> str:
        """The best implementation for a spec that the options allow, warmed up."""
        wanted, kv_dtype = self._options.attention, kv.buffers(layer)[0].dtype
        makers: dict[str, Callable[[], Refusal | None]] = {
            "flashinfer": lambda: self._make_flashinfer(spec, dtype, kv_dtype),
            "triton": self._make_triton,
            "reference": self._make_reference,
        }
        refused: list[str] = []
        lacking = _lacking(self._specs[spec])
        if lacking:  # only the reference has it, whatever is wanted
            makers, wanted = {"reference": self._make_reference}, "auto"
            refused = [f"no kernel has {lacking}"]
        for name, make in makers.items():
            if wanted not in ("auto", name):
                continue
            reason = make() or self._warm(name, spec, dtype, layer, kv)
            if reason is None:
                self._chosen[spec] = name
                said = f" ({'; '.join(refused)})" if refused else ""
                level = logging.WARNING if DOES_NOT_COMPILE in said else logging.INFO
                label = _label(self._specs[spec], dtype)
                logger.log(level, "attention of %s: %s%s", label, name, said)
                return name
            refused.append(f"not {name}: {reason}")
        if wanted == "flashinfer":
            # Forced for what it can do: types and sizes that it does not have go elsewhere, aloud.
            logger.warning("%s; torch's reference serves it", refused[-1])
            self._make_reference()
            self._chosen[spec] = "reference"
            return "reference"
        raise CapabilityError(f"TUPELO_CUDA_ATTENTION={wanted}: {'; '.join(refused)}")

    def _warm(
        self, name: str, spec: int, dtype: torch.dtype, layer: int, kv: KVPool
    ) -> Refusal | None:
        """Build every kernel of an implementation; what the compiler said where it failed."""
        if name == "reference":
            return None
        try:
            self._built[name].warmup(spec, layer, kv, dtype)
        except Exception as error:
            if not _from_compiler(error):
                raise
            if name not in self._chosen.values():
                del self._built[name]  # no other spec needs its plans
            first = str(error).strip().splitlines() or [type(error).__name__]
            return f"{DOES_NOT_COMPILE}: {first[0]}"
        return None

    def _make_flashinfer(
        self, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> Refusal | None:
        from tupelo_cuda.flashinfer_plan import why_not

        reason = why_not(self._specs[spec], dtype, kv_dtype)
        if reason is not None:
            return reason
        if "flashinfer" in self._built:
            return None
        from tupelo_cuda.flashinfer_attention import FlashInferAttention

        able = [i for i, s in enumerate(self._specs) if why_not(s, dtype, kv_dtype) is None]
        try:
            self._built["flashinfer"] = FlashInferAttention(
                {i: self._specs[i] for i in able},
                self._page_size,
                self._max_pages,
                self._runtime,
                dtype,
            )
        except (RuntimeError, OSError) as error:  # no compiler, or it failed: the next one serves
            first = str(error).strip().splitlines() or [type(error).__name__]
            return f"its kernels could not be built: {first[0]}"
        return None

    def _make_triton(self) -> Refusal | None:
        try:
            from tupelo.triton.attention import TritonAttention
            from tupelo_cuda.attention_tuning import attention_tuning
        except ImportError as error:
            return f"{error}"
        self._add("triton", partial(TritonAttention, tuning=attention_tuning()))
        return None

    def _make_reference(self) -> Refusal | None:
        self._add("reference", ReferenceAttention)
        return None

    def _add(self, name: str, make: Callable[..., AttentionBackend]) -> None:
        if name not in self._built:
            self._built[name] = make(
                self._specs, self._page_size, self._max_pages, self._runtime, self._in_place
            )


def _lacking(spec: AttentionSpec) -> str:
    """What of a spec neither FlashInfer nor Triton has here; "" for nothing."""
    if spec.sinks:
        return "sinks"
    if spec.chunked:
        return "chunked windows"
    return "compressed K/V" if spec.value_dim is not None else ""


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
