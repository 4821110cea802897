"""Compiles what ``lower.py`` wrote for TPUs that are not there, with libtpu's own compiler.

Runs where JAX and a libtpu are that know all of ``CHIPS``. A program that takes more of a core's
fast memory than there is, is refused by that compiler; one that surely does is tried too.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # asks no cloud what machine this is

import jax
import numpy as np
from jax._src import compiler
from jax._src.interpreters import mlir
from jax.experimental import topologies
from jaxlib import _jax
from jaxlib.mlir import ir

CHIPS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v7x": "tpu7x:2x2x1"}


def compile_for(topology: str, hlo: bytes, replicas: int) -> dict[str, Any]:
    """Compile a program, for as many devices as it has replicas."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    assignment = np.array(devices[:replicas]).reshape(replicas, 1)
    options = compiler.get_compile_options(
        num_replicas=replicas, num_partitions=1, device_assignment=assignment
    )
    options.executable_build_options.use_spmd_partitioning = False
    began = time.perf_counter()
    with mlir.make_ir_context():
        module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(hlo))
        listed = _jax.DeviceList(tuple(devices[:replicas]))
        made = devices[0].client.compile(module, listed, options)
    text = made.hlo_modules()[0].to_string()
    memory = made.get_compiled_memory_stats()
    return {
        "device": devices[0].device_kind,
        "seconds": round(time.perf_counter() - began, 1),
        "tpu_custom_calls": text.count('custom_call_target="tpu_custom_call"'),
        "all_reduces": text.count(" all-reduce(") + text.count(" all-reduce-start("),
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
    }


def wrong(result: dict[str, Any]) -> str:
    """What a compiled program lacks; "" if nothing."""
    if result["kind"] != "sample" and result["tpu_custom_calls"] < result["layers"]:
        return f"{result['tpu_custom_calls']} kernels for {result['layers']} layers"
    if result["world_size"] > 1 and result["kind"] != "sample" and not result["all_reduces"]:
        return "no all-reduce"
    return ""


def main() -> int:
    """Compile the programs in the folder named first; write what came out to the file named
    second."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    results = []
    for program in json.loads((folder / "programs.json").read_text()):
        hlo = (folder / program["file"]).read_bytes()
        for chip, topology in CHIPS.items():
            entry = {**program, "chip": chip}
            if program["kind"] in ("sample", "too_large") and chip != "v5e":
                continue  # these take the compiler a minute or two
            try:
                entry |= compile_for(topology, hlo, program["world_size"])
                entry["error"] = wrong(entry)
            except Exception as error:  # whatever the compiler says is the result
                entry["error"] = f"{type(error).__name__}: {str(error)[:500]}"
            refused = "vmem" in entry["error"].lower()
            entry["passed"] = refused if program["too_large"] else not entry["error"]
            results.append(entry)
            print(json.dumps(entry), flush=True)
    versions = {"jax": jax.__version__, "libtpu": _libtpu()}
    out.write_text(json.dumps({"versions": versions, "results": results}, indent=1))
    return 0 if all(r["passed"] for r in results) else 1


def _libtpu() -> str:
    from importlib.metadata import version

    return version("libtpu")


if __name__ == "__main__":
    raise SystemExit(main())
