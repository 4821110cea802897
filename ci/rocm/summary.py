"""Joins what the parts of ``run.sh`` wrote into one file, ``rocm.json``, and says what failed."""

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

PACKAGES = ("tupelo-core", "tupelo-backend-rocm", "torch", "triton", "amd-aiter")


def main() -> int:
    """Arguments: the folder, then the parts that failed; 1 if there are any."""
    folder, failed = Path(sys.argv[1]), sys.argv[2:]
    report: dict[str, Any] = {"failed": failed, "versions": _versions()}
    for name in ("compile", "bench"):
        file = folder / f"{name}.json"
        if file.is_file():
            report[name] = json.loads(file.read_text())
    for target in report.get("compile", {}).values():
        target.pop("exit_code")  # what counts is each kernel
    if (folder / "tests.xml").is_file():
        report["tests"] = _tests(folder / "tests.xml")
    for file in sorted((folder / "kit").glob("*.json")):
        report.setdefault("kit", {})[file.stem] = json.loads(file.read_text())
    (folder / "rocm.json").write_text(json.dumps(report, indent=1))
    said = f"failed: {', '.join(failed)}" if failed else "all passed"
    print(f"{folder / 'rocm.json'}: {said}")
    return 1 if failed else 0


def _tests(file: Path) -> dict[str, list[dict[str, Any]]]:
    """By folder or file, each test that was run and whether it passed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for case in ElementTree.parse(file).iter("testcase"):
        states = {child.tag for child in case}
        if "skipped" not in states:
            place = str(case.get("classname")).removeprefix("tests.unit.")
            passed = not states & {"failure", "error"}
            found.setdefault(place, []).append({"name": case.get("name"), "passed": passed})
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    raise SystemExit(main())
