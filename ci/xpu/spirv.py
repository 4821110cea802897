"""Compiles core's Triton kernels to SPIR-V for Intel GPUs that aren't there, with triton-xpu.

    python ci/xpu/spirv.py OUT.json

Run where triton-xpu is installed, and what its start compiles with: SYCL's runtime and headers,
Level Zero's headers and loader, a C++ compiler (``run.sh`` sees to that). The launchers run as they
are, on tensors that are never touched; each launch ends at the compiled kernel.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from tests.unit.triton.launches import LAUNCHES
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

MAGIC = 0x07230203
"""The first word of every SPIR-V module."""

COMMON = {
    "max_work_group_size": 1024,
    "max_num_sub_groups": 64,
    "has_fp64": True,
    "has_bfloat16_conversions": True,
    "has_subgroup_matrix_multiply_accumulate": True,
}
CARDS: dict[str, dict[str, Any]] = {
    "Arc A770 (Xe-HPG)": COMMON
    | {
        "gpu_eu_count": 512,
        "gpu_subslice_count": 32,
        "sub_group_sizes": [8, 16, 32],
        "has_fp64": False,
        "has_subgroup_2d_block_io": False,
        "local_mem_size": 64 << 10,
    },
    "Max 1550 (Xe-HPC)": COMMON
    | {
        "gpu_eu_count": 512,
        "gpu_subslice_count": 64,
        "sub_group_sizes": [16, 32],
        "has_subgroup_matrix_multiply_accumulate_tensor_float32": True,
        "has_subgroup_2d_block_io": True,
        "local_mem_size": 128 << 10,
    },
    "Arc B580 (Xe2)": COMMON
    | {
        "gpu_eu_count": 160,
        "gpu_subslice_count": 20,
        "sub_group_sizes": [16, 32],
        "has_subgroup_matrix_multiply_accumulate_tensor_float32": True,
        "has_subgroup_2d_block_io": True,
        "local_mem_size": 128 << 10,
    },
}


def main() -> int:
    """Compile everything for every card; 1 if a kernel does not compile, or does not fit."""
    compiled: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    JITFunction.run = compile_only
    records = []
    for card, properties in CARDS.items():
        target = GPUTarget("xpu", {"name": card, "architecture": 0, **properties}, 32)
        _become(target)
        for name, launch in LAUNCHES.items():
            compiled.clear()
            record: dict[str, Any] = {"card": card, "launch": name}
            try:
                with torch.inference_mode():
                    launch()
                record["kernels"] = [_facts(k, properties["local_mem_size"]) for k in compiled]
                record["ok"] = bool(compiled) and all(k["ok"] for k in record["kernels"])
            except (
                Exception
            ) as error:  # a compiler raises anything; the others are still of interest
                record |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
            records.append(record)
            print(json.dumps(record), flush=True)
    total = sum(len(record.get("kernels", ())) for record in records)
    good = all(record["ok"] for record in records)
    report = {"triton": triton.__version__, "kernels": total, "launches": records}
    Path(sys.argv[1]).write_text(json.dumps(report, indent=1))
    print(f"{total} kernels; " + ("all are SPIR-V" if good else "FAILED"))
    return 0 if good else 1


def _become(target: GPUTarget) -> None:
    """Let Triton believe that it sits on this card."""
    stand_in = SimpleNamespace(
        get_current_device=lambda: str(target.arch["name"]),
        get_current_stream=lambda device: 0,
        get_current_target=lambda: target,
        utils=SimpleNamespace(),
    )
    driver.set_active(stand_in)


def _facts(kernel: Any, local_bytes: int) -> dict[str, Any]:
    """Name, size, and whether it is SPIR-V within the card's local memory."""
    code = kernel.asm["spv"]
    shared = kernel.metadata.shared
    is_spirv = int.from_bytes(code[:4], "little") == MAGIC
    return {
        "kernel": kernel.metadata.name,
        "bytes": len(code),
        "local_bytes": shared,
        "ok": is_spirv and shared <= local_bytes,
    }


if __name__ == "__main__":
    raise SystemExit(main())
