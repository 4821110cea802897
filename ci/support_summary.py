"""Sums up reports of the conformance kit for docs/support-matrix.md: one backend on one device.

    python ci/support_summary.py --device "NVIDIA H100" --command "ci/cuda/run.sh" --out \\
        ci/support/cuda-h100.json REPORT.json ... --proof "what else=FILE.json#part"

A REPORT is the kit's conformance.json, or what a vendor's pipeline joined it into; several must be
of different levels, or all shares of one. A certificate.json is a summary already: put it into
ci/support. Without the hardware, ``--how`` says on what it ran instead. A proof's file is what
another part of the pipeline wrote; the outcomes in it are counted. What a backend offers and
nothing has run is named by ``--not-run``. Then run support_page.py.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tupelo.conformance.cells import FAILED, PASSED, Json, group_cells, op_cells


def summarise(reports: list[Json]) -> Json:
    """One summary of a backend's reports.

    Returns:
        ``levels``, ``counts``, ``versions``, ``capabilities``; ``groups``: for each group of cases
        how many came out how, and why the first was skipped; ``ops``: by op and dtype the tier and
        kernel that serve, or ``failed``.

    Raises:
        ValueError: none, of several backends, of a level twice, or of some of its shares.
    """
    names = {report["backend"]["name"] for report in reports}
    if len(names) != 1:
        raise ValueError(f"reports of {len(names)} backends: {', '.join(sorted(names))}")
    shares: dict[int, list[tuple[int, int]]] = {}
    for report in reports:
        for level in report["levels"]:
            k, n = report.get("share", (1, 1))
            shares.setdefault(level, []).append((n, k))
    for level, found in shares.items():
        n = found[0][0]
        if sorted(found) != [(n, k) for k in range(1, n + 1)]:
            raise ValueError(f"level {level}: not each share once: {sorted(found)}")
    backend = reports[-1]["backend"]
    return {
        "backend": backend["name"],
        "tupelo": reports[-1]["tupelo"],
        "torch": reports[-1]["torch"],
        "versions": backend["versions"],
        "contract": backend["contract"],
        "levels": sorted(shares),
        "counts": _sum([report["counts"] for report in reports]),
        "groups": group_cells(case for report in reports for case in report["cases"]),
        "ops": op_cells(row for report in reports for row in report["ops"]),
    }


def kit_reports(document: Any) -> Iterator[Json]:
    """Every report of the kit within a pipeline's JSON."""
    if isinstance(document, dict):
        if {"cases", "ops", "backend"} <= document.keys():
            yield document
        else:
            for part in document.values():
                yield from kit_reports(part)


def outcomes(document: Any) -> Iterator[bool]:
    """Every outcome that a part wrote: an exit code, or what says ``passed`` or ``ok``."""
    if isinstance(document, list):
        for part in document:
            yield from outcomes(part)
    elif isinstance(document, dict):
        if "exit_code" in document:
            yield document["exit_code"] == 0
            return
        said = [document[k] for k in ("passed", "ok") if isinstance(document.get(k), bool)]
        yield from said
        for part in document.values() if not said else ():
            yield from outcomes(part)


def read_proof(text: str) -> Json:
    """``what=FILE#part``: how many outcomes of the part are good, and how many are not.

    Raises:
        ValueError: there is none.
    """
    what, _, place = text.rpartition("=")
    file, _, part = place.partition("#")
    document = json.loads(Path(file).read_text(encoding="utf-8"))
    found = list(outcomes(document[part] if part else document))
    if not found:
        raise ValueError(f"{place}: no outcome in it")
    return {"what": what, PASSED: sum(found), FAILED: len(found) - sum(found)}


def dump(summary: Json) -> str:
    """JSON with a line for each group and op."""
    lines = []
    for key, value in summary.items():
        text = json.dumps(value, ensure_ascii=False)
        if key in ("groups", "ops"):
            rows = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
            text = "{\n" + ",\n".join(rows) + "\n }"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    """Write the summary that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT")
    parser.add_argument("--device", required=True, help="what it ran on, for people")
    parser.add_argument("--how", default="", help="what stood in for the hardware; absent: nothing")
    parser.add_argument("--date", required=True, help="when it ran, such as 2026-01-31")
    parser.add_argument("--command", required=True, help="that makes these reports")
    parser.add_argument("--proof", action="append", default=[], metavar="WHAT=FILE[#PART]")
    parser.add_argument("--not-run", action="append", default=[], metavar="WHAT=WHY")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    args = parser.parse_args()
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in args.reports]
    try:
        summary = summarise([report for document in documents for report in kit_reports(document)])
        proofs = [read_proof(text) for text in args.proof]
        missing = [text.rpartition("=") for text in args.not_run]
        proofs += [{"what": what, "not_run": why} for what, _, why in missing]
    except ValueError as error:
        print(f"support_summary.py: {error}", file=sys.stderr)
        return 2
    asked = {"device": args.device, "how": args.how, "date": args.date, "command": args.command}
    args.out.write_text(dump({**asked, **summary, "proofs": proofs}), encoding="utf-8")
    return 0


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for count in counts for name in count)
    return {name: total for name in names if (total := sum(c.get(name, 0) for c in counts))}


if __name__ == "__main__":
    sys.exit(main())
