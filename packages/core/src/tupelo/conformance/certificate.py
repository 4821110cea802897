"""The ``certified`` profile: everything that a backend claims, shown on its own hardware.

A run of the kit is green while cases are skipped for want of a second device, or while a kernel
refuses every sample. That is right for somebody at work, and no proof for others. A certificate
says that all levels ran on hardware, that nothing is red, and that a case passed for each claim.
"""

import datetime
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import tupelo
from tupelo.backend import Backend, GraphGrade
from tupelo.conformance.case import LEVELS, Status
from tupelo.conformance.cells import group_cells, op_cells
from tupelo.conformance.kit import Report
from tupelo.conformance.report import as_json
from tupelo.ops import OPS

NO_CLAIMS = {
    *("priority", "memory_fraction", "max_running", "chunk_tokens", "step_s"),
    *("static_shapes", "functional_kv", "plan_needs_host_lens", "collective_library"),
}
"""Capabilities that are defaults, or that say how a backend must be called: every case heeds
them."""

_SUITE = ("conformance", "ops")
"""What the questions are made of: the cases and oracles, and the ops' references, samples and
tolerances."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a backend says of itself.

    Attributes:
        what: for people. evidence: patterns of case ids, any of which proves it by passing.
    """

    what: str
    evidence: tuple[str, ...]


def claims(backend: Backend) -> Iterator[Claim]:
    """What a backend claims by its record, each with what would prove it."""
    has = backend.capabilities
    yield Claim("that its module opens no device", ("contract/import_opens_no_device",))
    for dtype in has.dtypes:
        yield Claim(f"dtypes {dtype}: ops", (f"ops/*/{dtype}/*",))
        yield Claim(f"dtypes {dtype}: attention", (f"attention/dtype/{dtype}_kv_*",))
    for dtype in has.kv_dtypes or has.dtypes:
        yield Claim(f"kv_dtypes {dtype}", (f"attention/dtype/*_kv_{dtype}",))
    for size in has.page_sizes:
        yield Claim(f"page_sizes {size}", (f"attention/decode/page_{size}",))
    for dim in has.head_dims:
        yield Claim(f"head_dims {dim}", (f"attention/geometry/*/dim_{dim}",))
    for scheme in has.quant_schemes:
        samples = [s.id for s in OPS["linear"].samples() if s.call.scheme.name == scheme]
        yield Claim(f"quant_schemes {scheme}", tuple(f"ops/linear/*/{s}/chosen" for s in samples))
    for dtype in has.batch_invariant:
        yield Claim(f"batch_invariant {dtype}: ops", (f"ops/*/{dtype}/batch_invariant",))
        case = f"attention/batch_invariant/{dtype}"
        yield Claim(f"batch_invariant {dtype}: attention", (case,))
    for kernel in backend.kernels:
        yield Claim(f"kernel {kernel.name}", (f"ops/{kernel.op}/*/{kernel.name}",))
    yield from _features(backend)


def _features(backend: Backend) -> Iterator[Claim]:
    """The claims that are a yes or a number."""
    has = backend.capabilities
    said = {
        "window": has.window,
        "chunked": has.chunked,
        "soft_cap": has.soft_cap,
        "sinks": has.sinks,
        "latent_kv": has.latent_kv,
        "graph": has.graph is not GraphGrade.NONE,
        "same_step_sharing": has.same_step_sharing,
        "prefix_group_tokens": has.prefix_group_tokens > 0,
        "pipeline_depth": has.pipeline_depth > 1,
    }
    evidence = {
        "window": ("attention/window/*", "engine/gemma3/greedy/*"),
        "chunked": ("attention/chunked_window/*",),
        "soft_cap": ("attention/soft_cap",),
        "sinks": ("attention/sinks",),
        "latent_kv": ("attention/latent/*",),
        "graph": ("engine/*/builds",),
        "same_step_sharing": ("attention/shared_in_the_same_step",),
        "prefix_group_tokens": ("attention/prefix_groups/*", "engine/*/prefix_groups"),
        "pipeline_depth": ("runner/pipelined", "engine/*/greedy/*"),
    }
    for name, patterns in evidence.items():
        for pattern in patterns if said[name] else ():
            yield Claim(f"{name}: {pattern}", (pattern,))
    for dtype in has.dtypes if has.max_world_size > 1 else ():
        what = f"max_world_size {has.max_world_size}: collectives in {dtype}"
        yield Claim(what, (f"collectives/{dtype}/all_reduce",))


def reasons_against(report: Report) -> list[str]:
    """Why a report is no certificate, each for people; empty if it is one."""
    backend = report.target.backend
    found = []
    if report.levels != tuple(LEVELS):
        found.append(f"levels {', '.join(map(str, report.levels))} are not all of {[*LEVELS]}")
    if report.only:
        found.append(f"only cases that begin with {report.only} ran")
    if report.share != (1, 1):
        found.append("only share {} of {} ran".format(*report.share))
    if not backend.hardware:
        found.append(f"it ran on {backend.device}, and the backend names no hardware there")
    found += [f"{name} is red" for name in report.failed_ids]
    passed = [r.id for r in report.having(Status.PASSED)]
    skipped = {r.id: r.message for r in report.having(Status.SKIPPED)}
    for claim in claims(backend):
        if not any(fnmatchcase(case, p) for case in passed for p in claim.evidence):
            why = [skipped[c] for c in skipped if any(fnmatchcase(c, p) for p in claim.evidence)]
            because = f": {why[0]}" if why else ""
            found.append(f"claimed and not shown: {claim.what}{because}")
    return found


def certificate(report: Report, command: str) -> dict[str, Any]:
    """The certificate as plain data, certified or not: what ``ci/support`` keeps of a device.

    Args:
        command: that made it, for whoever wants to make it again.
    """
    data: dict[str, Any] = as_json(report)
    backend = report.target.backend
    reasons = reasons_against(report)
    stand_in = "" if backend.hardware else f"{backend.device}, which is no hardware of its own"
    return {
        "profile": "certified",
        "certified": not reasons,
        "reasons": reasons,
        "device": backend.hardware or backend.device,
        "how": stand_in,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "backend": backend.name,
        **{key: data[key] for key in ("tupelo", "torch", "python", "machine")},
        "versions": dict(backend.versions),
        "notes": list(backend.notes),
        "contract": backend.contract,
        "capabilities": data["backend"]["capabilities"],
        "suite": {"sha256": suite_digest(), "cases": len(report.results)},
        "levels": data["levels"],
        "counts": {status: n for status, n in data["counts"].items() if n},
        "known_failures": [r.id for r in report.having(Status.KNOWN_FAILURE)],
        "groups": group_cells(data["cases"]),
        "ops": op_cells(data["ops"]),
        "proofs": [],
    }


def write_certificate(report: Report, folder: Path, command: str) -> None:
    """Write ``certificate.json`` into ``folder``."""
    text = json.dumps(certificate(report, command), indent=1, ensure_ascii=False)
    (folder / "certificate.json").write_text(text + "\n", encoding="utf-8")


def suite_digest() -> str:
    """SHA-256 of the kit and of the ops that it asks about: equal digests, equal questions."""
    package = Path(tupelo.__file__).parent
    total = hashlib.sha256()
    for file in sorted(f for part in _SUITE for f in (package / part).rglob("*.py")):
        name = file.relative_to(package).as_posix()
        content = file.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()
