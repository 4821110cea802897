"""Compiles the portable kernels for a GPU that isn't there: ``python compiled.py sm_90 [PART …]``.

A process of its own, since the interpreter, which the other tests need, is chosen at import. The
launchers run as they are, on tensors that are never touched; a stand-in driver names the target,
and each launch ends at the compiled kernel. Prints one JSON record a kernel.
"""

import inspect
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tests.unit.triton.launches import LAUNCHES
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime import driver
from triton.runtime.jit import JITFunction

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    **{name: GPUTarget("hip", name, 64) for name in ("gfx90a", "gfx942", "gfx950")},
    **{name: GPUTarget("hip", name, 32) for name in ("gfx1100", "gfx1201")},
}


def main(target: str, *parts: str) -> None:
    """Compile what the named launches, or all, would launch, and print what comes of it."""
    for facts in compile_for(target, {n: LAUNCHES[n] for n in parts or LAUNCHES}):
        print(json.dumps(facts), flush=True)


def compile_for(
    target: str, launches: Mapping[str, Callable[[], None]]
) -> Iterator[dict[str, Any]]:
    """Compile what the launches would launch; facts of each kernel. For a process of its own."""
    stand_in = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: TARGETS[target],
    )
    driver.set_active(stand_in)
    compiled: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    JITFunction.run = compile_only
    for name, launch in launches.items():
        compiled.clear()
        with torch.inference_mode():
            launch()
        for kernel in compiled:
            yield {"launch": name, **_facts(kernel)}


def _facts(kernel: Any) -> dict[str, Any]:
    """Name, bytes of shared memory, spills, and how many matrix instructions there are."""
    facts = {"kernel": kernel.metadata.name, "shared": kernel.metadata.shared}
    if "ptx" in kernel.asm:
        ptx = kernel.asm["ptx"]
        return facts | {
            "spills": _ptx_spills(ptx, kernel.metadata.target.arch),
            "matrix": len(re.findall(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma", ptx)),
            "binary_bytes": len(kernel.asm["cubin"]),
        }
    text = kernel.asm["amdgcn"]
    counts = {
        name: sum(int(n) for n in re.findall(rf"\.{name}:\s*(\d+)", text))
        for name in ("vgpr_spill_count", "vgpr_count", "agpr_count")
    }
    return facts | {
        "spills": counts["vgpr_spill_count"],
        "registers": counts["vgpr_count"],  # those for matrices included
        "warps": kernel.metadata.num_warps,
        "matrix": len(re.findall(r"v_mfma|v_wmma", text)),
        "binary_bytes": len(kernel.asm["hsaco"]),
    }


def _ptx_spills(ptx: str, arch: int) -> int:
    """Bytes that the assembler spills, as it reports them."""
    match = re.search(r"\.target\s+(\w+)", ptx)
    assert match is not None
    # Before Triton 3.5 there was one assembler for all.
    tool = get_ptxas(arch) if inspect.signature(get_ptxas).parameters else get_ptxas()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [tool.path, "-v", f"--gpu-name={match[1]}"]
        command += [str(source), "-o", str(Path(folder) / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill stores", done.stderr))


if __name__ == "__main__":
    main(*sys.argv[1:])
