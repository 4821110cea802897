#!/usr/bin/env python3
"""Seconds to ready of the 8B shape: with nothing built yet, then again; the phases of each.

  start.py REPORT.json [--warm]      with --warm only with what this machine has built

Cold means empty caches: FlashInfer's and Triton's kernels and the backend's measured choices.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMITS_S = {"cold": 120.0, "warm": 30.0}


def child(report: Path, begin: float) -> None:
    """Start an engine, run a request, and say how long it took from the process's begin on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    from engines import llama, workloads

    imported = time.time() - begin
    with llama(workloads.MODEL["layers"]) as engine:
        ready = time.time() - begin
        engine.generate(input_ids=[5, 6, 7], sampling_params={"max_new_tokens": 2})
        first = time.time() - begin
        builds = engine.stats()["builds_after_ready"]
        phases = engine.info.phases_s
    found = {"import_s": imported, "ready_s": ready, "first_reply_s": first, "phases_s": phases}
    report.write_text(json.dumps(found | {"builds_after_ready": builds}))


def start(name: str, environment: dict[str, str]) -> dict[str, Any]:
    """One start in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "start.json"
        command = [sys.executable, __file__, str(report), "--child", str(time.time())]
        subprocess.run(command, env={**os.environ, **environment}, check=True)
        found: dict[str, Any] = json.loads(report.read_text())
    found["ok"] = found["ready_s"] <= LIMITS_S[name]
    print(name, json.dumps(found), flush=True)
    return found


def main() -> int:
    """Cold, then warm with what the cold start built; 1 if either takes too long."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--child", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.report, args.child)
        return 0
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {}
        if not args.warm:
            paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            environment = {
                "FLASHINFER_WORKSPACE_BASE": f"{folder}/flashinfer",
                "TRITON_CACHE_DIR": f"{folder}/triton",
                "TUPELO_CACHE": f"{folder}/tupelo",
                # What an earlier run built is on the path, as FlashInfer's own package would be.
                "PYTHONPATH": os.pathsep.join(p for p in paths if not p.endswith("/.fi")),
            }
            results["cold"] = start("cold", environment)
        results["warm"] = start("warm", environment)
    args.report.write_text(json.dumps(results, indent=1))
    return 0 if all(result["ok"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
