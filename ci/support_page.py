"""Writes docs/support-matrix.md from ci/support/: ``python ci/support_page.py``.

With ``--check`` it writes nothing and says whether the page is up to date. A file there sums up
what the conformance kit reported of one backend on one device (support_summary.py makes it).
Nothing else makes a cell: what no report has, was not run.
"""

import json
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SUPPORT = ROOT / "ci" / "support"
PAGE = ROOT / "docs" / "support-matrix.md"

NOT_RUN, REFUSED, REFERENCE = "not run", "refused", "reference"

_INTRODUCTION = """# Support matrix

Written by `python ci/support_page.py` from the files in `ci/support`, each of which sums up what
the [conformance kit](backends.md) reported of one backend on one device; do not edit it here. A
report is added with `ci/support_summary.py`.

| in a cell | means |
| --- | --- |
| passed on hardware | every case of the kit about it passed on the device that the backend is for |
| passed without hardware (how) | likewise, on what stands in brackets |
| reference | of an op: its cases pass, and torch's reference serves, for want of a kernel |
| refused | the backend declares that it lacks it; what needs it is refused at start, by name |
| failed, known failure | cases that do so |
| not run | no report has it |

A report tells which kernel serves an op, and not which attention served: layers that a backend's
own attention lacks are the reference's there too, as its README says.
"""

FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
    "Contract": {"record, discovery, parts, order, copies": ("contract",)},
    "Attention": {
        "prompts, chunks of prompts, decoding, all mixed": (
            *("prefill", "chunked", "decode", "mixed", "boundaries", "one_token", "long"),
            *("many_rows", "reused_pages", "large_scores"),
        ),
        "ratios of heads, head sizes": ("geometry",),
        "compute types over types of K/V": ("dtype",),
        "pages shared with earlier steps": ("shared_prefix",),
        "pages shared within a step": ("shared_in_the_same_step",),
        "padded steps, plans refilled for replay": ("padding", "refilled_plan"),
        "packed QKV": ("packed_qkv",),
        "sliding windows": ("window",),
        "chunked windows": ("chunked_window",),
        "soft caps": ("soft_cap",),
        "sinks": ("sinks",),
        "compressed K/V (MLA)": ("latent",),
        "shared prefixes read once": ("prefix_groups",),
        "both directions, without a cache (encoders)": (
            *("../ragged/rows", "../ragged/one_row", "../ragged/dim_*", "../ragged/dtype"),
            *("../ragged/window", "../ragged/soft_cap*"),
        ),
    },
    "K/V": {
        "copies to and from the host": ("num_bytes", "copy_*", "round_trip"),
        "page groups": ("groups",),
    },
    "Sampler": {
        "greedy": ("greedy*", "padding"),
        "seeds": ("seed",),
        "temperature, top-k, top-p, min-p": ("support", "distribution"),
        "penalties": ("penalties",),
        "biases, fewest tokens": ("bias", "min_new_tokens"),
        "grammar masks": ("mask", "../runner/mask"),
        "log-probabilities": ("logprobs", "../runner/scores", "../runner/wanted"),
    },
    "Runner": {
        "prompts, chunks, mixed steps, slots": (
            *("prefill_decode", "chunked", "mixed", "slot_reuse", "warm", "dtype", "groups"),
        ),
        "two steps in flight": ("pipelined*",),
        "vectors (embeddings, classes)": ("pooled", "token_types", "../pooling/*"),
    },
    "Engine": {
        "greedy tokens of a Llama and a Gemma 3, with cache, chunks, two in flight": ("greedy",),
        "log-probabilities": ("logprobs",),
        "sampling and penalties, alone as together": ("sampled", "penalties"),
        "retraction": ("retraction",),
        "nothing built once ready": ("builds",),
        "shared prefixes read once": ("prefix_groups",),
    },
    "Batch invariance": {
        "ops, attention, engine": (
            *("../ops/batch_invariant", "../attention/batch_invariant"),
            *("../ragged/batch_invariant", "../engine/batch_invariant"),
        ),
    },
    "Collectives": {
        "two ranks": (
            *("ranks", "all_*", "reduce_scatter", "broadcast", "send_recv", "strided", "empty"),
        ),
    },
}
"""Area, feature, groups of cases: patterns in the area's suite, or from the top with ``../``."""

_SUITES = {"K/V": "kv", "Contract": ""}

Json = dict[str, Any]


def main() -> int:
    """Write the page, or with ``--check`` compare it; 1 if it is stale or leaves something out."""
    columns = read_columns()
    problems = [f"no feature of the matrix has {group}" for group in _unlisted(columns)]
    page = render(columns)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        problems.append("docs/support-matrix.md is not up to date; run: python ci/support_page.py")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def read_columns() -> list[Json]:
    """The summaries; and an empty one for each backend of the workspace that has none."""
    found = [json.loads(file.read_text("utf-8")) for file in sorted(SUPPORT.glob("*.json"))]
    present = {summary["backend"] for summary in found}
    backends = [p.name.removeprefix("backend-") for p in (ROOT / "packages").glob("backend-*")]
    bare = [{"backend": b, "groups": {}, "ops": {}} for b in backends if b not in present]
    return sorted(found + bare, key=lambda summary: summary["backend"])


def render(columns: list[Json]) -> str:
    """The page."""
    head = "".join(f" | {_head(column)}" for column in columns)
    rule = " | ---" * len(columns)
    parts = [_INTRODUCTION, "\n## Where it ran\n\n", _runs(columns)]
    parts += ["\n## Features\n\n", f"| feature{head} |\n| ---{rule} |\n"]
    for area, features in FEATURES.items():
        for feature, patterns in features.items():
            cells = [feature_cell(column, area, patterns) for column in columns]
            parts.append(f"| {area}: {feature} | {' | '.join(cells)} |\n")
    ops = dict.fromkeys(op for column in columns for op in column["ops"])
    parts += ["\n## Ops\n\n", f"| op{head} |\n| ---{rule} |\n"]
    for op in ops:
        cells = [op_cell(column, op) for column in columns]
        parts.append(f"| `{op}` | {' | '.join(cells)} |\n")
    proofs = [(column, proof) for column in columns for proof in column.get("proofs", ())]
    if proofs:
        parts.append("\n## Beside the kit\n\n| backend | what | outcome |\n| --- | --- | --- |\n")
        parts += [f"| {_head(c)} | {p['what']} | {_proof(c, p)} |\n" for c, p in proofs]
    return "".join(parts)


def feature_cell(column: Json, area: str, patterns: tuple[str, ...]) -> str:
    """What a backend's groups say of a feature."""
    groups = [g for name, g in column["groups"].items() if _matches(name, area, patterns)]
    bad = sum(group.get("failed", 0) for group in groups)
    known = sum(group.get("known failure", 0) for group in groups)
    passed = sum(group.get("passed", 0) for group in groups)
    lacking = [group for group in groups if "does not declare" in group.get("why", "")]
    if bad:
        return f"**failed** ({bad} of {bad + known + passed} cases)"
    if known:
        return f"known failure ({known} of {known + passed} cases)"
    if passed:
        return _passed(column) + ("; partly refused" if lacking else "")
    return REFUSED if lacking else NOT_RUN


def op_cell(column: Json, op: str) -> str:
    """Who serves an op, by dtype where that differs."""
    served = column["ops"].get(op, {})
    failed = [dtype for dtype, kernel in served.items() if kernel == "failed"]
    reference = [dtype for dtype, kernel in served.items() if kernel.startswith("reference ")]
    if failed:
        return f"**failed** in {', '.join(failed)}"
    if len(reference) == len(served):
        return REFERENCE if served else NOT_RUN
    return _passed(column) + (f"; reference in {', '.join(reference)}" if reference else "")


def _passed(column: Json) -> str:
    how = column.get("how")
    return f"passed without hardware ({how})" if how else "passed on hardware"


def _matches(group: str, area: str, patterns: tuple[str, ...]) -> bool:
    suite = _SUITES.get(area, area.lower())
    full = [p.removeprefix("../") if p.startswith("../") else f"{suite}/{p}" for p in patterns]
    return any(fnmatch(group, pattern.lstrip("/")) for pattern in full)


def _unlisted(columns: list[Json]) -> list[str]:
    """Groups of cases that no feature of the page has; ops are told by their tiers instead."""
    names = dict.fromkeys(name for column in columns for name in column["groups"])
    rows = [(area, patterns) for area, f in FEATURES.items() for patterns in f.values()]
    listed = {name for name in names for row in rows if _matches(name, *row)}
    return [n for n in names if n not in listed | {"ops", "collectives/single_rank"}]


def _head(column: Json) -> str:
    device = f": {column['device']}" if "device" in column else ""
    return f"`{column['backend']}`{device}"


def _runs(columns: list[Json]) -> str:
    rows = ["| backend | when | levels | cases | versions | by |\n", "| --- " * 6 + "|\n"]
    for column in columns:
        if "device" not in column:
            rows.append(f"| {_head(column)} | {NOT_RUN} | | | | |\n")
            continue
        counts = ", ".join(f"{number:,} {status}" for status, number in column["counts"].items())
        versions = {**column["versions"], "torch": column["torch"]}
        named = ", ".join(f"{name} {number}" for name, number in versions.items())
        levels = ", ".join(map(str, column["levels"]))
        cells = [_head(column), column["date"], levels, counts, named, f"`{column['command']}`"]
        rows.append(f"| {' | '.join(cells)} |\n")
    return "".join(rows)


def _proof(column: Json, proof: Json) -> str:
    if "not_run" in proof:
        return f"{NOT_RUN}: {proof['not_run']}"
    total = proof["passed"] + proof["failed"]
    if proof["failed"]:
        return f"**failed** ({proof['failed']} of {total})"
    where = "without hardware" if column["how"] else "on hardware"
    return f"passed {where}" + (f", {total} of {total}" if total > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
