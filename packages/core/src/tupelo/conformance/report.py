"""The three reports: JUnit for CI, JSON for programs, Markdown for people."""

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import torch

from tupelo import __version__
from tupelo.conformance.case import LEVELS, Measured, Result, Status
from tupelo.conformance.kit import Report
from tupelo.ops import OPS

_BAD = (Status.FAILED, Status.UNEXPECTED_PASS)


def write_reports(report: Report, folder: Path) -> None:
    """Write ``conformance.xml``, ``conformance.json`` and ``conformance.md`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conformance.xml").write_bytes(junit(report))
    (folder / "conformance.json").write_text(json.dumps(as_json(report), indent=1) + "\n")
    (folder / "conformance.md").write_text(markdown(report), encoding="utf-8")


def op_rows(report: Report) -> list[dict[str, object]]:
    """For each op and dtype that was run: the tier and kernel that a model gets, and its error.

    ``max_error`` is absolute; ``share`` is of the tolerance, over all samples.
    """
    found = [r.measured for r in report.results if r.measured is not None and r.measured.chosen]
    rows: list[dict[str, object]] = []
    for op in OPS:
        for dtype in sorted({m.dtype for m in found if m.op == op}):
            here = [m for m in found if m.op == op and m.dtype == dtype]
            best = _most(here)
            rows.append(
                {
                    "op": op,
                    "dtype": dtype,
                    "tier": best.tier,
                    "kernel": best.kernel,
                    "max_error": max(m.max_error for m in here),
                    "share_of_tolerance": max(m.share for m in here),
                    "failed": sum(
                        r.status in _BAD and r.id.startswith(f"ops/{op}/{dtype}/")
                        for r in report.results
                    ),
                }
            )
    return rows


def as_json(report: Report) -> dict[str, object]:
    """Everything, as plain data."""
    backend = report.target.backend
    return {
        "tupelo": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "backend": {
            "name": backend.name,
            "source": report.target.source,
            "device": backend.device,
            "hardware": backend.hardware,
            "contract": backend.contract,
            "versions": dict(backend.versions),
            "notes": list(backend.notes),
            "capabilities": asdict(backend.capabilities),
        },
        "levels": list(report.levels),
        "share": list(report.share),
        "green": report.green,
        "counts": _counts(report.results),
        "ops": op_rows(report),
        "cases": [asdict(r) for r in report.results],
    }


def junit(report: Report) -> bytes:
    """JUnit XML: a suite for each level, a test case for each case; known failures are skipped."""
    root = ElementTree.Element(
        "testsuites", name=f"tupelo conformance: {report.target.backend.name}"
    )
    for level in sorted({r.level for r in report.results}):
        results = [r for r in report.results if r.level == level]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=LEVELS.get(level, "known failures"),
            tests=str(len(results)),
            failures=str(sum(r.status in _BAD for r in results)),
            skipped=str(sum(r.status in (Status.SKIPPED, Status.KNOWN_FAILURE) for r in results)),
            time=f"{sum(r.seconds for r in results):.3f}",
        )
        for result in results:
            _junit_case(suite, result)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def markdown(report: Report) -> str:
    """A page for people: the verdict, what failed, the kernels of each op, what was skipped."""
    backend = report.target.backend
    counts = ", ".join(f"{n} {status}" for status, n in _counts(report.results).items() if n)
    lines = [
        f"# Conformance of {backend.name}: {'green' if report.green else 'RED'}",
        "",
        f"Tupelo {__version__}, torch {torch.__version__}, device `{backend.device}`, contract "
        f"{backend.contract}, levels {', '.join(map(str, report.levels))}: {counts}.",
    ]
    for status in (Status.FAILED, Status.UNEXPECTED_PASS, Status.KNOWN_FAILURE):
        bad = report.having(status)
        if bad:
            lines += ["", f"## {status.capitalize()} ({len(bad)})", ""]
            lines += [f"- `{r.id}`: {_one_line(r.message)}" for r in bad]
    rows = op_rows(report)
    if rows:
        lines += ["", "## Ops", ""]
        lines += ["| op | dtype | tier | kernel | max error | of tolerance | failed |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [
            f"| {r['op']} | {r['dtype']} | {r['tier']} | {r['kernel']} | {r['max_error']:.2e} | "
            f"{r['share_of_tolerance']:.0%} | {r['failed']} |"
            for r in rows
        ]
    reasons = [(r.message, r.id) for r in report.having(Status.SKIPPED)]
    if reasons:
        lines += ["", f"## Skipped ({len(reasons)})", ""]
        lines += [
            f"- {_one_line(reason)}: {_few([i for m, i in reasons if m == reason])}"
            for reason in dict.fromkeys(message for message, _ in reasons)
        ]
    return "\n".join(lines) + "\n"


def _junit_case(suite: ElementTree.Element, result: Result) -> None:
    folder, _, name = result.id.rpartition("/")
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=folder.replace("/", "."),
        name=name,
        time=f"{result.seconds:.4f}",
    )
    message = _printable(result.message)
    if result.status in _BAD:
        failure = ElementTree.SubElement(case, "failure", message=message, type=result.status)
        failure.text = _printable(result.details)
    elif result.status is not Status.PASSED:
        ElementTree.SubElement(case, "skipped", message=message, type=result.status)


def _counts(results: Iterable[Result]) -> dict[str, int]:
    found = [r.status for r in results]
    return {str(status): found.count(status) for status in Status}


def _most(measured: list[Measured]) -> Measured:
    """The kernel that serves most samples of an op."""
    names = [m.kernel for m in measured]
    return max(measured, key=lambda m: names.count(m.kernel))


def _few(ids: list[str]) -> str:
    shown = ", ".join(f"`{i}`" for i in ids[:3])
    return shown if len(ids) <= 3 else f"{shown} and {len(ids) - 3} more"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _printable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c for c in text if c in "\n\t" or ord(c) >= 32)
