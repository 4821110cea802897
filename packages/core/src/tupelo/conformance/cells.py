"""A report of the kit summed up: how each group of cases came out, and who serves each op.

Works on the reports' plain data, as ``conformance.json`` has it, so that what was written elsewhere
can be summed up too. The support matrix is made of these.
"""

from collections.abc import Iterable
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

_STATUSES = {"unexpected pass": FAILED}
_OPEN = ("attention", "ragged", "kv", "sampler", "runner", "pooling")
"""Suites whose groups are the first two parts of an id."""

Json = dict[str, Any]


def group_of(case_id: str) -> str:
    """What a case is about: ``attention/window`` of ``attention/window/chunks``."""
    parts = case_id.split("/")
    if parts[0] in _OPEN:
        return "/".join(parts[:2])
    if parts[0] == "ops" and parts[-1] == "batch_invariant":
        return "ops/batch_invariant"
    if parts[0] == "engine":
        return "/".join((parts[0], *parts[2:3])) if len(parts) > 2 else case_id
    if parts[0] == "collectives":
        return f"{parts[0]}/{parts[-1]}"
    return parts[0]


def group_cells(cases: Iterable[Json]) -> dict[str, Json]:
    """For each group of cases how many came out how, and why the first was skipped."""
    groups: dict[str, Json] = {}
    for case in cases:
        group = groups.setdefault(group_of(case["id"]), {})
        status = str(case["status"])
        status = _STATUSES.get(status, status)
        group[status] = group.get(status, 0) + 1
        if status == SKIPPED:
            group.setdefault("why", case["message"])
    return groups


def op_cells(rows: Iterable[Json]) -> dict[str, dict[str, str]]:
    """By op and dtype the tier and kernel that serve, the first's where rows of several shares
    differ; or ``failed``, if one did."""
    ops: dict[str, dict[str, str]] = {}
    for row in rows:
        served = ops.setdefault(row["op"], {})
        if row["failed"]:
            served[row["dtype"]] = FAILED
        served.setdefault(row["dtype"], f"{row['tier']} {row['kernel']}")
    return ops
