"""XPU graphs, which torch has from 2.11 on."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from tupelo.backend.graphs.capture import TorchCapture
from tupelo_xpu.vllm_calls import LibraryError, load


def xpu_capture(
    captured: Callable[[], None], module: Any, library: bool = True
) -> TorchCapture | None:
    """A capture of graphs, None where torch has none for the device.

    Args:
        captured: is told of each graph. module: torch's module of the device.
        library: whether vllm-xpu-kernels may be used.
    """
    make, pool = getattr(module, "XPUGraph", None), getattr(module, "graph_pool_handle", None)
    if make is None or pool is None:
        return None
    return TorchCapture(partial(_Graph, make), pool(), _unowned(library), captured)


class _Graph:
    """A graph with the arguments that others of torch's have."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._graph = make()

    def capture_begin(self, *, pool: Any, capture_error_mode: str) -> None:
        self._graph.capture_begin(pool=pool)

    def capture_end(self) -> None:
        self._graph.capture_end()

    def replay(self) -> None:
        self._graph.replay()


def _unowned(library: bool) -> Callable[[Tensor], Tensor]:
    """A tensor over the same memory that does not keep it allocated: torch itself has none for
    XPU. Without vllm-xpu-kernels every graph's results keep their memory."""
    try:
        weak = load("weak_ref_tensor") if library else None
    except LibraryError:
        weak = None
    if weak is None:
        return lambda tensor: tensor
    return lambda tensor: weak(input=tensor)
