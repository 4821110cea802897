"""The backend as the kit sees it where there is no AMD GPU: its record, on the host's memory.

    export TRITON_INTERPRET=1 PYTHONPATH=ci/rocm:.
    python -m tupelo.conformance --backend interpreted:backend

Kernels, core's and AITER's, run in Triton's interpreter, in float32 and float16: it computes
bfloat16 wrongly. Which kernels and which attention serve is chosen as on a gfx942; only HIP graphs,
RCCL and libraries for products (torch computes these) are missing.
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import torch
import tupelo_rocm
from tests.unit.rocm.aiter_here import RELEASE, UNITS, enter
from tupelo_rocm import aiter_attention
from tupelo_rocm.arch import TESTED
from tupelo_rocm.attention import RocmAttention
from tupelo_rocm.kernels import best_tokens, rocm_kernels
from tupelo_rocm.options import Options

from tupelo.backend import Backend, GraphGrade, RunnerParts, TorchRuntime
from tupelo.backend.graphs.runner import GraphRunner

ARCH = TESTED["gfx942"]
CARD = SimpleNamespace(
    name="Triton's interpreter",
    gcnArchName=ARCH.name,
    warp_size=ARCH.wave,
    shared_memory_per_block=ARCH.lds_bytes,
    total_memory=192 << 30,
    multi_processor_count=UNITS,
)


def backend() -> Backend:
    """The record of a gfx942, whose parts compute here."""
    with (
        patch.object(torch.version, "hip", "none"),
        patch("torch.cuda.is_available", lambda: True),
        patch("torch.cuda.device_count", lambda: 1),
        patch("torch.cuda.get_device_properties", lambda device: CARD),
    ):
        record = tupelo_rocm.backend()
    assert isinstance(record, Backend), record
    if RELEASE:
        enter(ARCH.name)
    # Nothing is compiled, so there is one shape to warm up.
    aiter_attention.WARM_ROWS, aiter_attention.WARM_KEYS = (1,), (512,)
    options = Options()
    kernels, _ = rocm_kernels(options, ARCH, None, "cpu")
    return replace(
        record,
        device="cpu",
        hardware="",
        capabilities=replace(
            record.capabilities,
            dtypes=("float32", "float16"),
            graph=GraphGrade.NONE,
            max_world_size=1,
            max_running=8,
            chunk_tokens=64,
        ),
        kernels=kernels,
        attention=partial(RocmAttention, options, ARCH, UNITS),
        runner=_runner,
        runtime=TorchRuntime,
        builds=lambda: 0,
        notes=("Triton's interpreter on the host",),
    )


def _runner(parts: RunnerParts) -> GraphRunner:
    return GraphRunner(parts, None, nullcontext, best_tokens())
