"""The hardware contract: a backend is a frozen record of parts, each with a working default.

A vendor's first green run is one function that returns ``Backend(name=..., device=...,
capabilities=Capabilities())``; then one kernel at a time. Adding a part later means adding a field
with a default. Core accepts contract version ``CONTRACT_VERSION`` and the one before it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tupelo.backend.attention import AttentionBackend, ReferenceAttention
from tupelo.backend.collectives import Collectives, TorchCollectives
from tupelo.backend.kv_pool import KVPool, TorchKVPool
from tupelo.backend.runner import EagerRunner, Runner, RunnerParts
from tupelo.backend.runtime import Runtime, TorchRuntime
from tupelo.backend.sampler import Sampler, TorchSampler
from tupelo.errors import CapabilityError, ContractError
from tupelo.ops import OPS, Kernel, check_kernel
from tupelo.specs import AttentionSpec

CONTRACT_VERSION = 1
"""What the contract says now; ``docs/contract-1.md`` tells what changed, and why."""


class GraphGrade(StrEnum):
    """How a runner executes: eagerly, by replaying captured graphs, or by running compiled
    programs."""

    NONE = "none"
    CAPTURED = "captured"
    COMPILED = "compiled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a backend can do. Every default is conservative; what is not declared is never asked of
    it.

    Attributes:
        priority: among usable backends the highest is chosen; the CPU's is 0.
        dtypes: compute types, the preferred one first.
        kv_dtypes: storage types of K/V; empty means those of ``dtypes``.
        page_sizes: tokens a page, the preferred one first; empty means any.
        head_dims: supported by its attention; empty means any.
        quant_schemes: names of ``QuantScheme`` that its linear kernels read.
        window, chunked, soft_cap, sinks: attention features.
        latent_kv: attention over K/V whose values are part of the keys (``KVSpec.value_dim``).
        graph: execution grade.
        static_shapes: the runner must be given a bucket with fixed sizes.
        functional_kv: K/V buffers may not be written in place; ``KVPool.replace`` stores what was
            written.
        same_step_sharing: a row may read pages that another row of the same step fills.
        plan_needs_host_lens: ``AttentionBackend.plan`` reads ``host.seq_lens``, so they must be
            exact.
        prefix_group_tokens: its attention reads a prefix that decode rows share once for all of
            them; ``Batch.prefix_groups`` names them where that spares a step reading at least this
            many tokens' K/V. 0: each row reads its own, and no groups are named.
        batch_invariant: compute types in which a request's result does not depend on what else is
            in its batch, nor on how its prompt was chunked.
        memory_fraction: share of all memory for weights, workspace and K/V unless configured.
        pipeline_depth: steps in flight that suit it, unless configured.
        max_running: requests that it runs at once, unless configured.
        chunk_tokens: prompt tokens of one step at most, unless configured.
        step_s: seconds that a step may take, as predicted, while somebody reads along, unless
            configured; 0: prompts are not held back for that.
        max_world_size: ranks that can work together.
        collective_library: torch.distributed backend name, or "" for none.
    """

    priority: int = 1
    dtypes: tuple[str, ...] = ("float32",)
    kv_dtypes: tuple[str, ...] = ()
    page_sizes: tuple[int, ...] = ()
    head_dims: tuple[int, ...] = ()
    quant_schemes: tuple[str, ...] = ("none",)
    window: bool = True
    chunked: bool = False
    soft_cap: bool = True
    sinks: bool = False
    latent_kv: bool = False
    graph: GraphGrade = GraphGrade.NONE
    static_shapes: bool = False
    functional_kv: bool = False
    same_step_sharing: bool = False
    plan_needs_host_lens: bool = False
    prefix_group_tokens: int = 0
    batch_invariant: tuple[str, ...] = ()
    memory_fraction: float = 0.88
    pipeline_depth: int = 1
    max_running: int = 64
    chunk_tokens: int = 512
    step_s: float = 0.0
    max_world_size: int = 1
    collective_library: str = ""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """What a backend's function returns where it cannot work.

    Attributes:
        reason: the first thing that is missing, and its remedy, for people.
    """

    reason: str


def _no_builds() -> int:
    """Of a backend that builds nothing by itself, as torch's own kernels."""
    return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One backend.

    Attributes:
        name: short, as users type it.
        device: torch device name that tensors live on.
        hardware: what the device is, as its driver or its maker names it; "" where something stands
            in for it, such as the host or an emulator. The kit certifies hardware alone.
        capabilities: what it can do.
        contract: version of the contract that it was written for.
        kernels: its ops, better ones first within a tier.
        attention: builds an ``AttentionBackend`` from
            ``(specs, page_size, max_pages, runtime, in_place)``.
        kv_pool: builds a ``KVPool`` from ``(specs, num_pages, page_size, runtime)``.
        sampler: builds a ``Sampler`` from ``(num_slots, vocab_size, ops, runtime)``.
        runner: builds a ``Runner`` from ``RunnerParts``.
        collectives: builds ``Collectives`` over a process group, or over None for one rank.
        runtime: builds a ``Runtime`` from the device name.
        builds: how many kernels, programs and graphs this process has built for the device so far,
            compiled, captured or loaded: an engine that is ready builds no more.
        versions: libraries that matter and their versions, for ``doctor``.
        notes: lines for ``doctor``, such as the instruction set in use.
    """

    name: str
    device: str
    capabilities: Capabilities
    hardware: str = ""
    contract: int = CONTRACT_VERSION
    kernels: tuple[Kernel, ...] = ()
    attention: Callable[..., AttentionBackend] = ReferenceAttention
    kv_pool: Callable[..., KVPool] = TorchKVPool
    sampler: Callable[..., Sampler] = TorchSampler
    runner: Callable[[RunnerParts], Runner] = EagerRunner
    collectives: Callable[[Any | None], Collectives] = TorchCollectives
    runtime: Callable[[str], Runtime] = TorchRuntime
    builds: Callable[[], int] = _no_builds
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def check(self) -> "Backend":
        """Refuse a record that breaks the contract, and return it otherwise.

        Raises:
            ContractError: a version that core does not accept, a kernel with a wrong signature, two
                kernels of one name, or a part that is not callable.
        """
        if self.contract not in (CONTRACT_VERSION, CONTRACT_VERSION - 1):
            raise ContractError(
                f"backend {self.name!r} is for contract {self.contract}; this core accepts "
                f"{CONTRACT_VERSION} and {CONTRACT_VERSION - 1}. Install matching versions"
            )
        for kernel in self.kernels:
            check_kernel(kernel, OPS)
        names = [k.name for k in self.kernels]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ContractError(f"backend {self.name!r} has two kernels named {twice[0]!r}")
        for part in (*_PARTS, "builds"):
            if not callable(getattr(self, part)):
                raise ContractError(f"backend {self.name!r}: {part} is not callable")
        return self


_PARTS: dict[str, Any] = {
    "attention": AttentionBackend,
    "kv_pool": KVPool,
    "sampler": Sampler,
    "runner": Runner,
    "collectives": Collectives,
    "runtime": Runtime,
}


_DEFAULTS = {
    *("forward_mla", "forward_qkv", "forward_ragged"),
    *("allocated", "profile", "release_unused", "zeros"),
}
"""Methods of protocols that do something, so that a part may inherit them: whatever was added since
contract 0."""


def check_part(name: str, part: object) -> None:
    """Refuse a built part that lacks a method of its protocol.

    Args:
        name: field of ``Backend`` that built it.

    Raises:
        ContractError: names the first missing member.
    """
    protocol = _PARTS[name]
    for member in sorted({*vars(protocol), *protocol.__annotations__}):
        if member.startswith("_"):
            continue
        stub = vars(protocol).get(member)
        # A part that subclasses the protocol inherits its stubs, which do nothing, and defaults.
        inherited = stub and getattr(type(part), member, None) is stub
        if not hasattr(part, member) or (inherited and member not in _DEFAULTS):
            raise ContractError(
                f"{type(part).__name__} is no {protocol.__name__}: it lacks {member!r}"
            )


def check_attention(
    capabilities: Capabilities, specs: Sequence[AttentionSpec], page_size: int
) -> None:
    """Refuse, at start-up, attention that the backend does not have.

    Raises:
        CapabilityError: names the feature.
    """
    for spec in specs:
        problems = [
            (spec.window is not None and not capabilities.window, "sliding windows"),
            (spec.chunked and not capabilities.chunked, "chunked windows"),
            (spec.soft_cap is not None and not capabilities.soft_cap, "attention soft-caps"),
            (spec.sinks and not capabilities.sinks, "attention sinks"),
            (spec.value_dim is not None and not capabilities.latent_kv, "compressed K/V (MLA)"),
            (
                bool(capabilities.head_dims) and spec.head_dim not in capabilities.head_dims,
                f"head_dim {spec.head_dim} (it has {capabilities.head_dims})",
            ),
        ]
        for bad, what in problems:
            if bad:
                raise CapabilityError(f"the backend has no attention with {what}")
    if capabilities.page_sizes and page_size not in capabilities.page_sizes:
        raise CapabilityError(
            f"the backend has no page size {page_size}; it has {capabilities.page_sizes}"
        )
