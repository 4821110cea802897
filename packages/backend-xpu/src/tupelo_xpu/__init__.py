"""Tupelo's backend for Intel GPUs.

Importing this module opens no device; asking for the backend does.
"""

import logging
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from tupelo.backend import Backend, Capabilities, GraphGrade, RunnerParts, Unavailable
from tupelo.backend.graphs.runner import GraphRunner
from tupelo.triton.builds import BuildCounter
from tupelo.triton.choices import ChoiceTable
from tupelo_xpu.attention import XpuAttention
from tupelo_xpu.card import Card, read_card
from tupelo_xpu.graphs import xpu_capture
from tupelo_xpu.kernels import best_tokens, product_table, xpu_kernels
from tupelo_xpu.options import Options, read_options
from tupelo_xpu.runtime import XpuRuntime
from tupelo_xpu.vendor import (
    IPEX,
    KERNELS,
    has_triton,
    installed,
    look,
    versions,
    why_no_triton,
    why_not,
)

__all__ = ["backend"]

logger = logging.getLogger(__name__)

DEVICE = "xpu:0"

COUNTER = BuildCounter()

STEP_S = 0.030
"""A reader sees no gap in 30 ms, and a prompt of usual length fits."""

SIZES = ((40.0, (256, 4096)), (14.0, (128, 2048)), (0.0, (64, 1024)))
"""From so many GiB on: requests that run at once, and prompt tokens of a step. A small device's
memory is better kept for K/V."""

PAGE_SIZES = (64, 32, 16)
"""vllm-xpu-kernels has most of its kernels for pages of 64 tokens."""


def backend() -> Backend | Unavailable:
    """The backend of this machine's first Intel GPU.

    Raises:
        ConfigError: an environment variable of this backend has a value that it cannot have.
    """
    options, seen = read_options(), look()
    reason = why_not(seen)
    if reason:
        return Unavailable(reason)
    try:
        card = read_card(torch.xpu.get_device_properties(DEVICE))
    except RuntimeError as error:
        first = next(iter(str(error).strip().splitlines()), "it says nothing")
        return Unavailable(
            f"torch {seen.torch} finds an Intel GPU and cannot open it: {first}; check what dmesg "
            "and sycl-ls say of it"
        )
    return make_backend(options, card, DEVICE, seen.num_devices)


def make_backend(options: Options, card: Card, device: str, num_devices: int = 1) -> Backend:
    """The record of a card that torch has by the name ``device``, the first of so many."""
    if has_triton():
        COUNTER.listen()
    table = product_table(options, card)
    kernels, refused = xpu_kernels(options, table, device)
    module = torch.get_device_module(device)
    captures = options.graphs and hasattr(module, "XPUGraph")
    if options.graphs and not captures:
        logger.info("torch %s has no XPU graphs: steps run eagerly", torch.__version__)
    max_running, chunk_tokens = next(sizes for least, sizes in SIZES if card.gib >= least)
    return Backend(
        name="xpu",
        device=device,
        capabilities=Capabilities(
            priority=100,
            dtypes=("bfloat16", "float16", "float32"),
            page_sizes=PAGE_SIZES,
            graph=GraphGrade.CAPTURED if captures else GraphGrade.NONE,
            chunked=True,
            sinks=True,
            latent_kv=True,
            same_step_sharing=True,
            plan_needs_host_lens=True,
            memory_fraction=0.88,
            max_world_size=8,
            collective_library="xccl",
            pipeline_depth=2,
            step_s=STEP_S,
            max_running=max_running,
            chunk_tokens=chunk_tokens,
        ),
        contract=1,
        kernels=kernels,
        attention=partial(XpuAttention, options, card),
        runner=partial(_runner, captures, options, table, module),
        runtime=XpuRuntime,
        builds=COUNTER.total,
        hardware=card.name,
        versions=versions(),
        notes=(_card_note(card, num_devices), *_kernel_notes(options, refused)),
    )


def _runner(
    captures: bool,
    options: Options,
    table: ChoiceTable | None,
    module: Any,
    parts: RunnerParts,
) -> GraphRunner:
    capture = xpu_capture(COUNTER.captured, module, options.vllm) if captures else None
    warming = nullcontext if table is None else table.open
    return GraphRunner(parts, capture, warming, best_tokens(), tries=True)


def _card_note(card: Card, num_devices: int) -> str:
    """What serves, for ``doctor``."""
    others = (
        f", the first of {num_devices} GPUs; ZE_AFFINITY_MASK names another"
        if num_devices > 1
        else ""
    )
    sizes = f"{card.gib:.0f} GiB, {card.units} Xe cores, driver {card.driver or 'unknown'}"
    return f"{card.name}, {sizes}{others}"


def _kernel_notes(options: Options, refused: tuple[str, ...]) -> tuple[str, ...]:
    """Which kernels are missing, for ``doctor``."""
    slow = why_no_triton()
    notes = (f"{slow}; torch's references serve, slowly",) if slow else ()
    if options.ipex:
        return (*notes, f"{IPEX}, archived upstream, is used: TUPELO_XPU_KERNELS=ipex", *refused)
    if not options.vllm:
        return (*notes, f"{KERNELS} is not used: TUPELO_XPU_KERNELS=none")
    if not installed(KERNELS):
        return (*notes, f'{KERNELS} is not installed; pip install "tupelo-backend-xpu[vendor]"')
    return (*notes, *_refused_note(refused))


def _refused_note(refused: tuple[str, ...]) -> tuple[str, ...]:
    """One line for all ops that the library lacks: they mostly lack it for one reason."""
    if not refused:
        return ()
    op, _, reason = refused[0].partition(": ")
    more = f" and {len(refused) - 1} more ops" if len(refused) > 1 else ""
    return (f"{KERNELS} is not used for {op} ({reason}){more}",)
