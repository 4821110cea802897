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
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


def main(target: str, *parts: str) -> None:
    """Compile what the named launches, or all, would launch."""
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
    for name, launch in LAUNCHES.items():
        if parts and name not in parts:
            continue
        compiled.clear()
        with torch.inference_mode():
            launch()
        for kernel in compiled:
            print(json.dumps({"launch": name, **_facts(kernel)}), flush=True)


def _facts(kernel: Any) -> dict[str, Any]:
    """Name, bytes of shared memory, spills, and how many matrix instructions there are."""
    facts = {"kernel": kernel.metadata.name, "shared": kernel.metadata.shared}
    if "ptx" in kernel.asm:
        ptx = kernel.asm["ptx"]
        return facts | {
            "spills": _ptx_spills(ptx, kernel.metadata.target.arch),
            "matrix": len(re.findall(r"wgmma\.mma_async|mma\.sync", ptx)),
        }
    text = kernel.asm["amdgcn"]
    spills = sum(int(n) for n in re.findall(r"\.vgpr_spill_count:\s*(\d+)", text))
    return facts | {"spills": spills, "matrix": len(re.findall(r"v_mfma", text))}


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
