"""Tupelo's backend for CPUs: torch, and vector kernels where a compiler is at hand.

Importing this module builds nothing; asking for the backend may build the kernels, once a machine.
"""

import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from tupelo.backend import Backend, Capabilities, Unavailable
from tupelo_cpu.attention import NativeAttention, TorchAttention
from tupelo_cpu.kernels import native_kernels
from tupelo_cpu.native.bindings import native_library

__all__ = ["backend"]


def backend() -> Backend | Unavailable:
    """The backend of this machine's CPU; always usable."""
    library, note = native_library()
    attention = TorchAttention if library is None else partial(NativeAttention, library)
    return Backend(
        name="cpu",
        device="cpu",
        hardware=_model_name(),
        capabilities=Capabilities(
            priority=0,
            dtypes=("float32", "bfloat16", "float16"),
            chunked=True,
            sinks=True,
            latent_kv=True,
            same_step_sharing=True,
            plan_needs_host_lens=True,
            batch_invariant=("float32",) if library is not None else (),
            memory_fraction=0.5,
            max_world_size=8,
            collective_library="gloo",
        ),
        contract=1,
        kernels=native_kernels(library) if library is not None else (),
        attention=attention,
        versions={"tupelo-backend-cpu": version("tupelo-backend-cpu"), "torch": torch.__version__},
        notes=(note, f"{torch.get_num_threads()} threads"),
    )


def _model_name() -> str:
    """As the processor calls itself, or failing that its architecture."""
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text().splitlines() if listing.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
