"""Core's Triton kernels through triton-ascend and bishengir-compile, with neither an NPU nor CANN:
``python triton_compile.py REPORT.json``.

Each launcher runs as it is, on tensors that are never touched. triton-ascend makes Linalg of what
it launches, and bishengir-compile takes that through all its passes to HIVM, sizes in the unified
buffer checked; the step after that, ``hivmc``, is CANN's: a program that does nothing replaces it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from tests.unit.triton import launches
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from tupelo_npu.attention_tuning import attention_tuning

TARGET = GPUTarget("npu", "Ascend910B3", 0)
OPTIONS = (
    *("--target=Ascend910B3", "--enable-hfusion-compile=true", "--enable-hivm-compile=true"),
    *("--enable-triton-kernel-compile=true", "--enable-auto-multi-buffer=true"),
)
LINALG = "ConvertLinalgRToBinary"
"""What triton-ascend calls the stage that needs CANN."""

HIVM = "module.hivm.opt.mlir"

TOO_WIDE = ("too_wide", "_row_of")
"""Made to be refused."""

REFUSED = {
    TOO_WIDE,
    *(("rows", "_quantize_kernel"), ("vocab", "_sample_kernel"), ("decodes", "_shared_kernel")),
    *(("attention", "_extend_kernel"), ("attention_window", "_extend_kernel")),
    *(("attention_256", "_extend_kernel"), ("attention_256", "_shared_kernel")),
}
"""Launches whose tiles the unified buffer may not hold. On an NPU they are passed over, and torch
serves."""

LONGEST_S = 300


@triton.jit
def _row_of(x, out, width: tl.constexpr):
    at = tl.arange(0, width)
    row = tl.load(x + at).to(tl.float32)
    tl.store(out + at, row * tl.rsqrt(tl.sum(row * row) / width))


def compile_linalg() -> Iterator[dict[str, Any]]:
    """Each kernel that the launches launch: its Linalg, or the stage that refused it."""
    nowhere = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: TARGET,
    )
    driver.set_active(nowhere)
    launches.SIZES = attention_tuning()
    found: list[dict[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        cache = tempfile.mkdtemp(dir=os.environ["TRITON_CACHE_DIR_ROOT"])
        os.environ["TRITON_CACHE_DIR"] = cache
        record: dict[str, Any] = {"kernel": self.__name__}
        try:
            run(self, *args, grid=grid, warmup=True, **kwargs)
            record["error"] = "CANN's step ran"
        except Exception as error:
            text = str(error)
            files = sorted(Path(cache).rglob("*.ttadapter"))
            if LINALG in text and files:
                record["linalg"] = files[0]
            else:
                record["error"] = f"{type(error).__name__}: {_first(text)}"
        found.append(record)

    JITFunction.run = compile_only

    def too_wide() -> None:
        wide = torch.empty(1 << 20, dtype=torch.float32)
        _row_of[(1,)](wide, wide, 1 << 20)

    for name, launch in [*launches.LAUNCHES.items(), ("too_wide", too_wide)]:
        found.clear()
        try:
            with torch.inference_mode():
                launch()
        except Exception as error:  # the launcher itself
            found.append({"kernel": "", "error": f"{type(error).__name__}: {_first(str(error))}"})
        for record in found:
            yield {"launch": name, **record}


def to_hivm(linalg: Path, folder: Path) -> str:
    """Why bishengir-compile refuses a kernel before CANN's step; "" if it does not."""
    binary = Path(str(find_spec("ascendnpuir").origin)).parent / "bin" / "bishengir-compile"
    out = Path(tempfile.mkdtemp(dir=folder))
    stand_in = folder / "hivmc"
    stand_in.write_text("#!/bin/sh\nexit 0\n")
    stand_in.chmod(0o755)
    source = out / "kernel.ttadapter.mlir"
    source.write_text(linalg.read_text())
    command = [str(binary), str(source), *OPTIONS, f"--save-temps={out}", "-o", str(out / "k.o")]
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=out,
            env=os.environ | path,
            check=False,
            timeout=LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {LONGEST_S} s"
    if list(out.rglob(HIVM)):
        return ""
    return _first(done.stderr) or f"exit code {done.returncode}"


def _first(text: str) -> str:
    """The line that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for sign in ("overflow, requires", "error:", "Error", "not "):
        for line in lines:
            if sign in line:
                return line[-300:]
    return lines[0][-300:] if lines else ""


def main() -> int:
    """Compile everything; 1 if a kernel fares otherwise than ``REFUSED`` says."""
    folder = Path(tempfile.mkdtemp())
    os.environ["TRITON_CACHE_DIR_ROOT"] = str(folder)
    kernels = []
    for record in compile_linalg():
        linalg = record.pop("linalg", None)
        if linalg is not None:
            record["error"] = to_hivm(linalg, folder)
        refused = "overflow" in record["error"]
        place = (record["launch"], record["kernel"])
        ok = refused if place == TOO_WIDE else not record["error"]
        record |= {"refused": refused, "ok": ok or (refused and place in REFUSED)}
        kernels.append(record)
        print(json.dumps(record), flush=True)
    Path(sys.argv[1]).write_text(json.dumps({"kernels": kernels}, indent=1))
    wrong = [record for record in kernels if not record["ok"]]
    print(f"triton_compile.py: {len(wrong)} wrong of {len(kernels)} kernels")
    return 1 if wrong or len(kernels) < 100 else 0


if __name__ == "__main__":
    raise SystemExit(main())
