"""Joins what the parts of ``run.sh`` wrote into one file, ``tpu.json``, and says what failed."""

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def main() -> int:
    """Arguments: the folder, then the parts that failed; 1 if there are any."""
    folder, failed = Path(sys.argv[1]), sys.argv[2:]
    report: dict[str, Any] = {"failed": failed, "versions": _versions()}
    for name in ("sweep", "interpret", "aot"):
        file = folder / f"{name}.json"
        if file.is_file():
            report[name] = json.loads(file.read_text())
    for file in sorted((folder / "kit").glob("*.json")):
        report.setdefault("kit", {})[file.stem] = json.loads(file.read_text())
    (folder / "tpu.json").write_text(json.dumps(report, indent=1))
    print(f"{folder / 'tpu.json'}: " + (f"failed: {', '.join(failed)}" if failed else "all passed"))
    return 1 if failed else 0


def _versions() -> dict[str, str]:
    found = {}
    for name in ("tupelo-core", "tupelo-backend-tpu", "torch", "torch-xla", "jax", "libtpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    raise SystemExit(main())
