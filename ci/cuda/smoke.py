#!/usr/bin/env python3
"""First signs of life: the device, its rates, FlashInfer's kernels, a tiny model against the CPU.

smoke.py REPORT.json [FOLDER]      with FOLDER, kernels that were built are packed into it, as
flashinfer_jit_cache.tar.xz: unpack it into .fi, and run.sh builds none of them again
"""

import json
import lzma
import os
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import tupelo_cuda
from rates import rates

from tupelo.backend import Backend, Capabilities
from tupelo.conformance.levels.engine import GREEDY, llama, prompts
from tupelo.engine import Engine

INIT = '''"""FlashInfer kernels built by an earlier run, where FlashInfer looks for such."""

from pathlib import Path

__version__ = "{version}"


def get_jit_cache_dir() -> str:
    return str(Path(__file__).parent / "kernels")
'''


def device() -> dict[str, Any]:
    """What there is."""
    backend = tupelo_cuda.backend()
    assert isinstance(backend, Backend), backend
    return {"notes": backend.notes, "versions": dict(backend.versions), **rates()}


def import_flashinfer() -> dict[str, Any]:
    """Seconds to import it."""
    began = time.perf_counter()
    import flashinfer

    return {"version": flashinfer.__version__, "import_s": time.perf_counter() - began}


def greedy(engine: Engine) -> list[list[int]]:
    """Tokens after a few prompts."""
    replies = engine.generate(input_ids=prompts(), sampling_params=GREEDY)
    return [reply["output_ids"] for reply in replies]


def tiny(dtype: str, attention: str, head_dim: int) -> dict[str, Any]:
    """Greedy tokens of a tiny model, beside the CPU reference's in float32."""
    os.environ["TUPELO_CUDA_ATTENTION"] = attention
    settings: dict[str, Any] = {
        "max_total_tokens": 1024,
        "max_running_requests": 20,
        "chunked_prefill_size": 16,
        "check_integrity": True,
        "seed": 7,
    }
    source = llama(head_dim)
    reference = Backend(
        name="reference", device="cpu", capabilities=Capabilities(plan_needs_host_lens=True)
    )
    with Engine(backend=reference, source=source, dtype="float32", **settings) as engine:
        want = greedy(engine)
    began = time.perf_counter()
    backend = tupelo_cuda.backend()
    with Engine(backend=backend, source=source, dtype=dtype, **settings) as engine:
        ready_s = time.perf_counter() - began
        got = greedy(engine)
        runner = engine._built.runner
        same = [a == b for a, b in zip(got, want, strict=True)]
        result = {
            "ready_s": ready_s,
            "phases_s": engine.info.phases_s,
            "captures": getattr(runner, "num_captures", None),
            "replays": getattr(runner, "num_replays", None),
            "same_as_cpu": same,
            "got": got,
            "want": want,
            "kernels": sorted({f"{k['op']}:{k['kernel']}" for k in engine.info.kernels}),
        }
    assert dtype != "float32" or all(same), result
    return result


def pack_kernels(folder: Path) -> dict[str, Any]:
    """Built modules as a package that FlashInfer takes prebuilt kernels from."""
    import flashinfer

    base = Path(os.environ.get("FLASHINFER_WORKSPACE_BASE", Path.home()))
    built = sorted((base / ".cache" / "flashinfer").rglob("*.so"))
    sizes = {file.name: file.stat().st_size for file in built}
    if not built:
        return sizes
    text = INIT.format(version=flashinfer.__version__).encode()
    with tempfile.NamedTemporaryFile() as plain:
        with tarfile.open(plain.name, "w") as archive:
            info = tarfile.TarInfo("flashinfer_jit_cache/__init__.py")
            info.size = len(text)
            archive.addfile(info, BytesIO(text))
            for file in built:
                archive.add(file, f"flashinfer_jit_cache/kernels/{file.stem}/{file.name}")
        target = folder / "flashinfer_jit_cache.tar.xz"
        target.write_bytes(lzma.compress(Path(plain.name).read_bytes(), preset=1))
    return sizes | {"packed": target.stat().st_size}


def main() -> int:
    """Run every check, whatever the ones before it said."""
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "device": device,
        "import_flashinfer": import_flashinfer,
        "float32_reference": lambda: tiny("float32", "reference", 64),
        "float32_triton": lambda: tiny("float32", "triton", 64),
        "bfloat16_triton": lambda: tiny("bfloat16", "triton", 128),
        "bfloat16_flashinfer": lambda: tiny("bfloat16", "flashinfer", 128),
        "float32_auto": lambda: tiny("float32", "auto", 64),
    }
    if len(sys.argv) > 2:
        steps["pack_kernels"] = lambda: pack_kernels(Path(sys.argv[2]))
    results: dict[str, Any] = {}
    failed = 0
    for name, step in steps.items():
        began = time.perf_counter()
        try:
            results[name] = step()
        except Exception:  # each check says its own; the others still run
            failed += 1
            results[name] = {"failed": traceback.format_exc()}
        results[name]["seconds"] = round(time.perf_counter() - began, 2)
        print(name, json.dumps(results[name], default=str)[:2500].replace("\\n", "\n"), flush=True)
        Path(sys.argv[1]).write_text(json.dumps(results, default=str, indent=1))
        torch.cuda.empty_cache()
    return 1 if failed else 0


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    sys.exit(main())
