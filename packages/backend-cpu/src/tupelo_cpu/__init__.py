"""Tupelo's backend for CPUs: torch, and vector kernels where a compiler is at hand."""

from tupelo.backend import Backend, Capabilities, Unavailable

__all__ = ["backend"]


def backend() -> Backend | Unavailable:
    """The backend of this machine's CPU; always usable."""
    return Backend(
        name="cpu",
        device="cpu",
        capabilities=Capabilities(
            priority=0,
            dtypes=("float32", "bfloat16", "float16"),
            same_step_sharing=True,
            plan_needs_host_lens=True,
            max_world_size=8,
            collective_library="gloo",
        ),
    )
