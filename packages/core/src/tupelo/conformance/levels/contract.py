"""Level 0: the record, its parts, its capabilities, and the manners of its module."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tupelo.backend import (
    CONTRACT_VERSION,
    Backend,
    GraphGrade,
    RunnerParts,
    Tier,
    check_part,
)
from tupelo.conformance.case import Case, check
from tupelo.conformance.probe_model import ProbeModel
from tupelo.conformance.processes import Child
from tupelo.conformance.target import Target, find_factory, make
from tupelo.errors import ContractError
from tupelo.ops import OPS, Kernel, OpTable, check_kernel
from tupelo.specs import DTYPE_BYTES, AttentionSpec, KVSpec

COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
SCHEMES = ("none",)
"""Quantisation schemes that core has; each comes with samples of ``linear``."""

_TUPLES = (
    "dtypes",
    "kv_dtypes",
    "page_sizes",
    "head_dims",
    "quant_schemes",
    "batch_invariant",
)

PARTS = ("runtime", "attention", "kv_pool", "sampler", "runner", "collectives")


def contract_cases(target: Target) -> Iterator[Case]:
    """The cases of level 0."""
    backend = target.backend
    elsewhere = "" if target.source else "the backend exists in this process only"
    cases: list[tuple[str, Callable[[], None], str]] = [
        ("record", partial(_record, backend), ""),
        ("version", partial(_version, backend), ""),
        ("discovery", partial(_discovery, target), elsewhere),
        ("import_opens_no_device", partial(_import_opens_nothing, target.source), elsewhere),
        ("capabilities", partial(_capabilities, backend), ""),
        *((f"part/{part}", partial(_part, backend, part), "") for part in PARTS),
        *((f"kernel/{k.name}", partial(_kernel, k), "") for k in backend.kernels),
        ("runtime/memory", partial(_memory, backend), ""),
        ("runtime/copies", partial(_copies, backend), ""),
        ("runtime/order", partial(_order, backend), ""),
        ("runtime/profile", partial(_profile, backend), ""),
    ]
    for name, run, skip in cases:
        yield Case(f"contract/{name}", 0, run, skip)


def _record(backend: Backend) -> None:
    backend.check()
    check(bool(backend.name), "the backend has no name")
    torch.device(backend.device)
    check(isinstance(backend.hardware, str), f"hardware is {backend.hardware!r}, no name")
    before, after = backend.builds(), backend.builds()
    check(type(before) is int and 0 <= before <= after, f"builds() says {before}, then {after}")


def _version(backend: Backend) -> None:
    """The version that it states is one of the two that this core accepts, and core tells others
    apart."""
    accepted = (CONTRACT_VERSION, CONTRACT_VERSION - 1)
    for version in (*accepted, CONTRACT_VERSION + 1, CONTRACT_VERSION - 2):
        said = ""
        try:
            replace(backend, contract=version, kernels=()).check()
        except ContractError as error:
            said = str(error)
        check(bool(said) != (version in accepted), f"contract {version}: core says {said!r}")
        check(not said or str(version) in said, f"{said!r} does not name contract {version}")
    check(backend.contract in accepted, f"states contract {backend.contract}, core has {accepted}")


def _discovery(target: Target) -> None:
    again = make(find_factory(target.source))
    check(isinstance(again, Backend), f"asked a second time, it is unavailable: {again}")
    assert isinstance(again, Backend)
    same = (again.name, again.capabilities) == (target.backend.name, target.backend.capabilities)
    check(same, "asked a second time, it answers with another name or other capabilities")
    if ":" not in target.source:
        check(
            again.name == target.source,
            f"the entry point is named {target.source!r}, the backend {again.name!r}",
        )


def _import_opens_nothing(source: str) -> None:
    answer = Child("tupelo.conformance.opened", [source]).answer(timeout_s=120)
    check(not answer["nodes"], f"importing its module opened {', '.join(answer['nodes'])}")
    check(not answer["initialised"], "importing its module initialised torch's accelerator")


def _capabilities(backend: Backend) -> None:
    has = backend.capabilities
    check(bool(has.dtypes), "dtypes is empty: no compute type at all")
    check(set(has.dtypes) <= set(COMPUTE_DTYPES), f"dtypes {has.dtypes}: known {COMPUTE_DTYPES}")
    check(
        set(has.kv_dtypes) <= set(DTYPE_BYTES), f"kv_dtypes {has.kv_dtypes}: known {[*DTYPE_BYTES]}"
    )
    check(
        set(has.quant_schemes) <= set(SCHEMES) and "none" in has.quant_schemes,
        f"quant_schemes {has.quant_schemes}: core knows {SCHEMES}, and 'none' must be among them",
    )
    check(
        set(has.batch_invariant) <= set(has.dtypes),
        f"batch_invariant {has.batch_invariant} names types that dtypes {has.dtypes} lacks",
    )
    for name in _TUPLES:
        values = getattr(has, name)
        check(isinstance(values, tuple), f"{name} is {type(values).__name__}, not a tuple")
        check(len(set(values)) == len(values), f"{name} {values} names one twice")
    sizes = (*has.page_sizes, *has.head_dims, has.max_world_size)
    check(
        all(isinstance(n, int) and n > 0 for n in sizes),
        "page_sizes, head_dims and max_world_size must be positive integers",
    )
    check(isinstance(has.graph, GraphGrade), f"graph is {has.graph!r}, no GraphGrade")
    counts = (has.max_running, has.chunk_tokens, has.pipeline_depth)
    check(
        all(isinstance(n, int) and n > 0 for n in counts) and has.step_s >= 0,
        "max_running, chunk_tokens and pipeline_depth must be positive integers, step_s 0 or more",
    )
    check(0 < has.memory_fraction <= 1, f"memory_fraction {has.memory_fraction} is not in (0, 1]")
    check(
        has.max_world_size == 1 or bool(has.collective_library),
        f"max_world_size is {has.max_world_size}, but collective_library is empty",
    )


def _part(backend: Backend, part: str) -> None:
    parts = build_parts(backend)
    check_part(part, parts[part])


def build_parts(backend: Backend) -> dict[str, object]:
    """Every part of a backend, built small for the preferred dtype."""
    has = backend.capabilities
    page_size = has.page_sizes[0] if has.page_sizes else 4
    head_dim = has.head_dims[0] if has.head_dims else 16
    dtype = (has.kv_dtypes or has.dtypes)[0]
    kv = KVSpec(group=0, layers=(0,), num_kv_heads=1, head_dim=head_dim, dtype=dtype)
    spec = AttentionSpec(group=0, num_heads=1, num_kv_heads=1, head_dim=head_dim, scale=1.0)
    runtime = backend.runtime(backend.device)
    attention = backend.attention((spec,), page_size, 4, runtime, not has.functional_kv)
    pool = backend.kv_pool((kv,), (4,), page_size, runtime)
    sampler = backend.sampler(2, 32, OpTable(OPS, backend.kernels), runtime)
    runner = backend.runner(
        RunnerParts(
            model=ProbeModel((spec,), (0,), 32, has.dtypes[0], runtime.device),
            attention=attention,
            kv=pool,
            sampler=sampler,
            runtime=runtime,
            num_slots=2,
            max_pages=4,
            num_groups=1,
        )
    )
    check(pool.num_bytes() > 0, "an allocated K/V pool says that it takes no bytes")
    check(pool.page_size == page_size, f"the pool's page_size is {pool.page_size}, not {page_size}")
    return {
        "runtime": runtime,
        "attention": attention,
        "kv_pool": pool,
        "sampler": sampler,
        "runner": runner,
        "collectives": backend.collectives(None),
    }


def _kernel(kernel: Kernel) -> None:
    check_kernel(kernel, OPS)
    spec = OPS[kernel.op]
    check(
        kernel.tier is Tier.REFERENCE or kernel.fn is not spec.reference,
        f"kernel {kernel.name!r} calls itself {kernel.tier}, but its fn is the torch reference",
    )
    for sample in spec.samples():
        reason = kernel.supports(sample.call)
        check(
            reason is None or (isinstance(reason, str) and bool(reason.strip())),
            f"supports() of {kernel.name!r} answers {reason!r}; it must be None or a reason",
        )


def _memory(backend: Backend) -> None:
    free, total = backend.runtime(backend.device).memory()
    check(0 <= free <= total and total > 0, f"memory() says {free} bytes free of {total}")


def _copies(backend: Backend) -> None:
    runtime = backend.runtime(backend.device)
    check(
        runtime.device.type == torch.device(backend.device).type,
        f"the runtime is on {runtime.device}, the backend on {backend.device}",
    )
    for dtype in (np.int32, np.int64, np.float32, np.uint8):
        staged = runtime.host_array((3, 5), dtype)
        check(staged.shape == (3, 5) and staged.dtype == dtype, "host_array: wrong shape or dtype")
        staged[:] = np.arange(15).reshape(3, 5)
        tensor = runtime.to_device(staged)
        check(tensor.device.type == runtime.device.type, f"to_device left it on {tensor.device}")
        doubled = tensor + tensor
        ticket = runtime.to_host([doubled, doubled[:0]])
        arrays = ticket.wait()
        check(ticket.ready(), "a ticket that was waited for isn't ready")
        same = np.array_equal(arrays[0], 2 * np.arange(15).reshape(3, 5))
        check(same and arrays[0].dtype == dtype, f"{np.dtype(dtype)} changed on the way")
        check(arrays[1].shape == (0, 5), f"an empty tensor arrived as {arrays[1].shape}")


def _order(backend: Backend) -> None:
    runtime = backend.runtime(backend.device)
    with runtime.stream():
        tensor = runtime.to_device(np.arange(1000, dtype=np.float32))
        total = (tensor * 2).sum()
        event = runtime.event()
        event.record()
        ticket = runtime.to_host([total])
    event.synchronize()
    check(bool(event.query()), "an event that was waited for has not passed")
    check(float(ticket.wait()[0]) == 999000.0, "what was computed in a stream is wrong")
    runtime.synchronize()


def _profile(backend: Backend) -> None:
    runtime = backend.runtime(backend.device)
    for on_device in (False, True):
        recording = runtime.profile(on_device=on_device, with_stack=False, record_shapes=True)
        with runtime.stream():
            total = (runtime.to_device(np.arange(1000, dtype=np.float32)) * 2).sum()
        runtime.to_host([total]).wait()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            recording.stop(path)
            check(path.is_file(), "stop() of a profile wrote no file")
            names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
        check("aten::mul" in names, "a product that was computed meanwhile is not in the profile")
