"""Joins what the parts of a pipeline wrote into one file, and says what failed.

    python ci/pipeline_report.py VENDOR FOLDER

Reads ``parts.tsv`` (name, exit code, seconds), the parts' own JSON files and the kit's in ``kit/``;
writes ``VENDOR.json``. 1 if a part failed, or none ran.
"""

import json
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

NAMED = ("tupelo", "torch", "triton", "jax", "libtpu", "flashinfer", "amd-aiter", "vllm-xpu")
"""What the names of packages begin with whose versions matter."""


def main() -> int:
    """Write the file named by the arguments."""
    vendor, folder = sys.argv[1], Path(sys.argv[2])
    rows = [line.split("\t") for line in (folder / "parts.tsv").read_text().splitlines()]
    parts = {name: {"exit_code": int(code), "seconds": int(s)} for name, code, s in rows}
    failed = [name for name, part in parts.items() if part["exit_code"]]
    report: dict[str, Any] = {"failed": failed, "parts": parts, "versions": versions()}
    for file in sorted(folder.glob("*.json")):
        if file.stem != vendor:
            report[file.stem] = json.loads(file.read_text("utf-8"))
    for file in sorted((folder / "kit").glob("*.json")):
        report.setdefault("kit", {})[file.stem] = json.loads(file.read_text("utf-8"))
    target = folder / f"{vendor}.json"
    target.write_text(json.dumps(report, indent=1), "utf-8")
    verdict = f"failed: {', '.join(failed)}" if failed else f"all {len(parts)} parts passed"
    print(f"{target}: {verdict if parts else 'no part ran'}")
    return 1 if failed or not parts else 0


def versions() -> dict[str, str]:
    """Of the packages that matter, in the environment that runs this."""
    found = {str(d.metadata["Name"]).lower(): d.version for d in distributions()}
    return {name: number for name, number in sorted(found.items()) if name.startswith(NAMED)}


if __name__ == "__main__":
    sys.exit(main())
