"""Tupelo's backend for NVIDIA GPUs.

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
from tupelo_cuda.attention import CudaAttention
from tupelo_cuda.flashinfer_plan import num_modules
from tupelo_cuda.graphs import cuda_capture
from tupelo_cuda.kernels import best_tokens, cuda_kernels, product_table
from tupelo_cuda.options import Options, read_options
from tupelo_cuda.vendor import DEVICE, notes, versions, why_not

__all__ = ["backend"]

COUNTER = BuildCounter(num_modules)

STEP_S = 0.030
"""A reader sees no gap in 30 ms, and a prompt of usual length fits."""

SIZES = ((60.0, (512, 8192)), (30.0, (256, 4096)), (0.0, (128, 2048)))
"""From so many GiB on: requests that run at once, and prompt tokens of a step. A small device's
memory is better kept for K/V."""

PREFIX_GROUP_TOKENS = 4096
"""K/V tokens that must be spared for two launches a layer to pay: 16 MB of an 8B model's layer."""


def backend() -> Backend | Unavailable:
    """The backend of this machine's first NVIDIA GPU.

    Raises:
        ConfigError: an environment variable of this backend has a value that it cannot have.
    """
    reason = why_not()
    if reason:
        return Unavailable(reason)
    options = read_options()
    COUNTER.listen()
    table = product_table(options, DEVICE)
    gpu = torch.cuda.get_device_properties(DEVICE)
    gib = gpu.total_memory / (1 << 30)
    max_running, chunk_tokens = next(sizes for least, sizes in SIZES if gib >= least)
    return Backend(
        name="cuda",
        device=DEVICE,
        hardware=gpu.name,
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
            collective_library="nccl",
            pipeline_depth=2,
            step_s=STEP_S,
            max_running=max_running,
            chunk_tokens=chunk_tokens,
        ),
        contract=1,
        kernels=cuda_kernels(table),
        attention=partial(CudaAttention, options),
        runner=partial(_runner, options, table),
        runtime=StreamRuntime,
        builds=COUNTER.total,
        versions=versions(),
        notes=notes(),
    )


def _runner(options: Options, table: ChoiceTable | None, parts: RunnerParts) -> GraphRunner:
    capture = cuda_capture(COUNTER.captured) if options.graphs else None
    warming = nullcontext if table is None else table.open
    return GraphRunner(
        parts,
        capture,
        warming,
        best_tokens(),
        grouped=options.prefix_groups,
        cut=options.prompt_graphs,
    )
