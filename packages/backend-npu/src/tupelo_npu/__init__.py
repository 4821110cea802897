"""Tupelo's backend for Ascend NPUs.

Importing this module loads no torch-npu and opens no device; asking for the backend does, where
everything that it needs is there.
"""

from contextlib import nullcontext, suppress
from functools import partial

import torch

from tupelo.backend import Backend, Capabilities, GraphGrade, RunnerParts, Unavailable
from tupelo.backend.graphs.runner import GraphRunner
from tupelo.backend.stream_runtime import StreamRuntime
from tupelo.errors import BackendUnavailable
from tupelo.ops.trial import Trials
from tupelo.triton.builds import BuildCounter
from tupelo_npu.attention import NpuAttention
from tupelo_npu.fused_attention import PAGE_SIZES
from tupelo_npu.graphs import HostLengths, acl_capture
from tupelo_npu.kernels import has_triton, npu_kernels
from tupelo_npu.options import Options, read_options
from tupelo_npu.vendor import installed, look, open_device, versions, why_not

__all__ = ["backend"]

DEVICE = "npu:0"
COUNTER = BuildCounter()

STEP_S = 0.030
"""A reader sees no gap in 30 ms, and a prompt of usual length fits."""

SIZES = ((48.0, (256, 8192)), (24.0, (128, 4096)), (0.0, (64, 2048)))
"""From so many GiB on: requests that run at once, and prompt tokens of a step."""


def backend() -> Backend | Unavailable:
    """The backend of this machine's first Ascend NPU.

    Raises:
        ConfigError: an environment variable of this backend has a value that it cannot have.
    """
    options = read_options()
    reason = why_not(look())
    if reason:
        return Unavailable(reason)
    try:
        count = open_device()
    except BackendUnavailable as error:
        return Unavailable(str(error))
    with suppress(ImportError):  # Triton before 3.3 tells nobody what it builds
        COUNTER.listen()
    card = torch.get_device_module("npu").get_device_properties(DEVICE)
    return record(options, count, (card.name, card.total_memory))


def record(options: Options, count: int, card: tuple[str, int]) -> Backend:
    """The record of a machine with so many NPUs of this name and these bytes."""
    name, gib = card[0], card[1] / (1 << 30)
    kernels, refused = npu_kernels(options, Trials(DEVICE))
    max_running, chunk_tokens = next(sizes for least, sizes in SIZES if gib >= least)
    return Backend(
        name="npu",
        device=DEVICE,
        capabilities=Capabilities(
            priority=100,
            dtypes=("bfloat16", "float16", "float32"),
            page_sizes=PAGE_SIZES,
            graph=GraphGrade.CAPTURED if options.graphs else GraphGrade.NONE,
            chunked=True,
            sinks=True,
            latent_kv=True,
            same_step_sharing=True,
            plan_needs_host_lens=True,
            memory_fraction=0.85,
            max_world_size=8,
            collective_library="hccl",
            pipeline_depth=2,
            step_s=STEP_S,
            max_running=max_running,
            chunk_tokens=chunk_tokens,
        ),
        contract=1,
        kernels=kernels,
        attention=partial(NpuAttention, options),
        runner=partial(_runner, options),
        runtime=StreamRuntime,
        builds=COUNTER.total,
        versions=versions(),
        hardware=name,
        notes=(
            f"{name}, {gib:.0f} GiB, the first of {count}",
            *_kernel_notes(options, refused),
        ),
    )


def _runner(options: Options, parts: RunnerParts) -> GraphRunner:
    lengths = getattr(parts.attention, "lengths", None) or HostLengths()
    capture = acl_capture(lengths, COUNTER.captured) if options.graphs else None
    return GraphRunner(parts, capture, nullcontext, tries=True)


def _kernel_notes(options: Options, refused: tuple[str, ...]) -> tuple[str, ...]:
    """Which kernels are missing, for ``doctor``."""
    notes = [f"not used: {reason}" for reason in refused]
    if not options.vendor:
        notes.append("CANN's fused kernels are not used: TUPELO_NPU_VENDOR=0")
    if not options.triton:
        notes.append("Triton is not used: TUPELO_NPU_TRITON=0")
    elif not has_triton():
        notes.append('triton-ascend is not installed; pip install "tupelo-backend-npu[triton]"')
    elif installed("triton") and not installed("triton-ascend"):
        notes.append("the triton that is installed is not triton-ascend, and builds for no NPU")
    return tuple(notes)
