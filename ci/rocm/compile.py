"""Every Triton kernel that AMD's and NVIDIA's GPUs would be given, compiled where there are none.

    python ci/rocm/compile.py OUT.json [TARGET ...]

For AMD's architectures in the sizes of the backend: to HSACO, without vector registers spilled and
within the local data share of a workgroup, as the compiler's metadata says. For NVIDIA's in core's
sizes, to cubin. AITER's own kernels, where it is installed, are told too, and not judged. Exit code
1 if a kernel of ours is not as it must be.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.unit.rocm.aiter_here import RELEASE, enter
from tests.unit.triton import launches
from tests.unit.triton.compiled import TARGETS, compile_for
from tupelo_rocm.aiter_attention import AiterAttention
from tupelo_rocm.aiter_ops import ARCHS, aiter_kernels, aiter_product
from tupelo_rocm.arch import TESTED, Arch
from tupelo_rocm.attention_tuning import attention_tuning, why_not
from tupelo_rocm.product_tuning import launches as product_launches
from tupelo_rocm.product_tuning import moe_sizes

from tupelo.backend import TorchKVPool, TorchRuntime
from tupelo.batch import Bucket
from tupelo.specs import AttentionSpec, KVSpec
from tupelo.triton.choices import Product
from tupelo.triton.linear import run_linear
from tupelo.triton.moe import run_experts

SHARED_BYTES = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376} | {
    arch.name: arch.lds_bytes for arch in TESTED.values()
}
"""Shared memory that one program may have. Source of NVIDIA's: the CUDA programming guide."""

UNITS = 64
HIDDEN, INNER = launches.HIDDEN, launches.INNER
Launch = Callable[[], None]


def main() -> int:
    """Compile for each target in a process of its own; 1 if any kernel is not as it must be."""
    if sys.argv[1] == "--only":
        for facts in _compile(sys.argv[2]):
            print(json.dumps(facts), flush=True)
        return 0
    out, targets = Path(sys.argv[1]), sys.argv[2:] or list(TARGETS)
    report = {target: _spawned(target) for target in targets}
    out.write_text(json.dumps(report, indent=1))
    bad = 0
    for target, kernels in report.items():
        ours = [kernel for kernel in kernels if "ok" in kernel]
        wrong = [kernel for kernel in ours if not kernel["ok"]]
        print(f"{target}: {len(ours)} kernels of ours, {len(wrong)} not as they must be", *wrong)
        bad += len(wrong)
    return 1 if bad else 0


def _spawned(target: str) -> list[dict[str, Any]]:
    """Facts of each kernel; of a compiler that failed, what it said, as one that is not ok."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", __file__, "--only", target]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    kernels = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        kernels.append({"launch": "", "ok": False, "error": done.stderr[-2000:]})
    return kernels


def _compile(target: str) -> Iterator[dict[str, Any]]:
    """Facts of each kernel: of ours with the verdict."""
    arch = TESTED.get(target)
    ours = launches.LAUNCHES if arch is None else _of_amd(arch)
    theirs = _of_aiter(arch) if arch is not None and RELEASE and target in ARCHS else {}
    if theirs:
        enter(target)
    for facts in compile_for(target, {**ours, **theirs}):
        if facts["launch"] in theirs:
            yield facts
            continue
        fits = facts["shared"] <= SHARED_BYTES[target] and facts["binary_bytes"] > 0
        yield facts | {"ok": fits and (arch is None or facts["spills"] == 0)}


def _of_amd(arch: Arch) -> dict[str, Launch]:
    """Core's launches in the sizes of an architecture, less those that it is not given."""
    launches.SIZES = attention_tuning(arch, UNITS)
    found = {n: run for n, run in launches.LAUNCHES.items() if not n.startswith("linear_")}
    wide = [d for d in (64, 128, 256) if not why_not(arch, d, torch.float32)]
    found["decodes_float32"] = partial(launches.decodes, torch.float32, dims=wide)
    found["attention_256_capped"] = partial(
        launches.attention, head_dim=256, heads=16, soft_cap=50.0
    )
    found |= {f"products_{rows}": partial(_products, arch, rows) for rows in (1, 16, 32, 64)}
    found |= {f"experts_{tokens}": partial(_experts, arch, tokens) for tokens in (2, 512)}
    return found


def _products(arch: Arch, rows: int) -> None:
    """Every launch that is tried for a product, plain and gated."""
    x = launches.empty(rows, HIDDEN)
    for kind, outputs in (("linear", HIDDEN), ("gated_silu", 2 * INNER)):
        weight = launches.weight(outputs, HIDDEN)
        product = Product(kind, outputs, HIDDEN, "bfloat16", rows, False)
        configs = product_launches(arch).of(product)
        assert configs, f"no launch of {product} is tried"
        for config in configs:
            run_linear(x, weight, config, kind.partition("_")[2])


def _experts(arch: Arch, tokens: int) -> None:
    x, gate_up = launches.empty(tokens, HIDDEN), launches.empty(8, 2 * 1024, HIDDEN)
    weights = launches.empty(tokens, 2, dtype=torch.float32)
    experts = torch.zeros(tokens, 2, dtype=torch.int64)
    down = launches.empty(8, HIDDEN, 1024)
    config = moe_sizes(arch, x, gate_up)
    run_experts(x, weights, experts, "silu", gate_up, down, config=config)


def _of_aiter(arch: Arch) -> dict[str, Launch]:
    """AITER's kernels, as the adapters launch them."""
    return {
        "aiter_ops": partial(_aiter_ops, arch),
        "aiter_product": partial(_aiter_product, arch),
        "aiter_attention": _aiter_attention,
    }


def _aiter_ops(arch: Arch) -> None:
    ops = {kernel.op: kernel.fn for kernel in aiter_kernels(arch.name)[0]}
    x, weight = launches.empty(64, HIDDEN), launches.empty(HIDDEN)
    ops["rms_norm"](x, weight, 1e-5)
    ops["add_rms_norm"](x, x, weight, 1e-5)
    weights = launches.empty(64, 2, dtype=torch.float32)
    experts = torch.zeros(64, 2, dtype=torch.int64)
    gate_up, down = launches.empty(8, 2 * 1024, HIDDEN), launches.empty(8, HIDDEN, 1024)
    ops["moe_experts"](x, weights, experts, "silu", gate_up, down)


def _aiter_product(arch: Arch) -> None:
    product = aiter_product(arch.name)
    assert product is not None
    product(launches.empty(16, HIDDEN), launches.weight(HIDDEN, HIDDEN))


def _aiter_attention() -> None:
    """A decode step and a mixed one."""
    kind = AttentionSpec(group=0, num_heads=32, num_kv_heads=8, head_dim=128, scale=0.1)
    kept = KVSpec(group=0, layers=(0,), num_kv_heads=8, head_dim=128, dtype="bfloat16")
    runtime = TorchRuntime("cpu")
    attention = AiterAttention([kind], 16, 256, runtime)
    pool = TorchKVPool([kept], [64], 16, runtime)
    for counts in ([1] * 4, [1, 200]):
        plan = attention.plan(launches.step(counts, Bucket()))
        q = launches.empty(sum(counts), 32, 128)
        attention.attend(q, 0, 0, pool, plan)


if __name__ == "__main__":
    raise SystemExit(main())
