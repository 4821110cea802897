"""Tupelo's backend for AMD GPUs.

Importing this module opens no device; asking for the backend does.
"""

from contextlib import nullcontext
from functools import partial

import torch

from tupelo.backend import Backend, Capabilities, GraphGrade, RunnerParts, Unavailable
from tupelo.backend.graphs.runner import GraphRunner
from tupelo.backend.stream_runtime import StreamRuntime
from tupelo.triton.builds import BuildCounter
from tupelo.triton.choices import ChoiceTable
from tupelo_rocm.arch import TESTED, Arch, find_arch
from tupelo_rocm.attention import RocmAttention
from tupelo_rocm.graphs import hip_capture
from tupelo_rocm.kernels import best_tokens, has_triton, product_table, rocm_kernels
from tupelo_rocm.options import Options, read_options
from tupelo_rocm.vendor import DEVICE, Seen, installed, look, versions, why_not

__all__ = ["backend"]

COUNTER = BuildCounter()

STEP_S = 0.030
"""A reader sees no gap in 30 ms, and a prompt of usual length fits."""

SIZES = ((60.0, (512, 8192)), (30.0, (256, 4096)), (0.0, (128, 2048)))
"""From so many GiB on: requests that run at once, and prompt tokens of a step. A small device's
memory is better kept for K/V."""

PREFIX_GROUP_TOKENS = 4096
"""K/V tokens that must be spared for two launches a layer to pay: 16 MB of an 8B model's layer."""


def backend() -> Backend | Unavailable:
    """The backend of this machine's first AMD GPU.

    Raises:
        ConfigError: an environment variable of this backend has a value that it cannot have.
    """
    options = read_options()
    seen = look()
    reason = why_not(seen)
    if reason:
        return Unavailable(reason)
    COUNTER.listen()
    device = torch.cuda.get_device_properties(DEVICE)
    arch = find_arch(
        getattr(device, "gcnArchName", ""),
        getattr(device, "warp_size", 0),
        getattr(device, "shared_memory_per_block", 0),
    )
    table = product_table(options, arch, device.name)
    kernels, refused = rocm_kernels(options, arch, table, DEVICE)
    gib = device.total_memory / (1 << 30)
    max_running, chunk_tokens = next(sizes for least, sizes in SIZES if gib >= least)
    return Backend(
        name="rocm",
        device=DEVICE,
        hardware=device.name,
        capabilities=Capabilities(
            priority=100,
            dtypes=("bfloat16", "float16", "float32"),
            graph=GraphGrade.CAPTURED if options.graphs else GraphGrade.NONE,
            chunked=True,
            sinks=True,
            latent_kv=True,
            same_step_sharing=True,
            plan_needs_host_lens=True,
            prefix_group_tokens=PREFIX_GROUP_TOKENS if options.prefix_groups else 0,
            memory_fraction=0.88,
            max_world_size=8,
            collective_library="nccl",  # RCCL, by the name that torch has for both
            pipeline_depth=2,
            step_s=STEP_S,
            max_running=max_running,
            chunk_tokens=chunk_tokens,
        ),
        contract=1,
        kernels=kernels,
        attention=partial(RocmAttention, options, arch, device.multi_processor_count),
        runner=partial(_runner, options, table),
        runtime=StreamRuntime,
        builds=COUNTER.total,
        versions=versions(),
        notes=(
            f"{device.name}, {gib:.0f} GiB, {device.multi_processor_count} compute units",
            _arch_note(arch),
            *_other_gpus(seen),
            *_kernel_notes(options, refused),
        ),
    )


def _runner(options: Options, table: ChoiceTable | None, parts: RunnerParts) -> GraphRunner:
    capture = hip_capture(COUNTER.captured) if options.graphs else None
    warming = nullcontext if table is None else table.open
    return GraphRunner(
        parts,
        capture,
        warming,
        best_tokens(),
        grouped=options.prefix_groups,
        cut=options.prompt_graphs,
    )


def _arch_note(arch: Arch) -> str:
    """What is known of the architecture, for ``doctor``."""
    sizes = f"waves of {arch.wave}, {arch.lds_bytes >> 10} KiB of LDS"
    if not arch.family:
        return f"{arch.name}: unknown to this backend; Triton's kernels in cautious sizes; {sizes}"
    like = "" if arch.name in TESTED else f", kernels sized as for {arch.like}"
    return f"{arch.name} ({arch.family}): {sizes}{like}"


def _other_gpus(seen: Seen) -> tuple[str, ...]:
    """That there are several, for ``doctor``."""
    if seen.num_devices < 2:
        return ()
    return (f"the first of {seen.num_devices} GPUs; HIP_VISIBLE_DEVICES names another",)


def _kernel_notes(options: Options, refused: tuple[str, ...]) -> tuple[str, ...]:
    """Which kernels are missing, for ``doctor``."""
    if not has_triton():
        return ("triton is not installed: torch computes everything, slowly",)
    if not options.aiter:
        return ("AITER is not used: TUPELO_ROCM_AITER=0",)
    if not installed("amd-aiter"):
        return ('AITER is not installed; pip install "tupelo-backend-rocm[vendor]"',)
    return tuple(f"AITER is not used for {reason}" for reason in refused)
