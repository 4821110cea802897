"""A device of torch's that stands in for an Intel GPU: the sample's, with the module that torch has
for XPU, streams, events, graphs and all. For processes of their own.

As strict as a GPU: no op takes tensors of both sides, and the host sees nothing but what is copied.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).resolve().parents[3] / "examples" / "sample-backend" / "src"))

from tupelo_sample.device import DEVICE, NAME, DeviceTensor, open_device

MEMORY = 8 << 30
PROPERTIES = SimpleNamespace(
    name="Intel Pretended Graphics",
    total_memory=MEMORY,
    gpu_subslice_count=20,
    local_mem_size=64 << 10,
    driver_version="1.6.0",
)


class Stream:
    """Work runs at once; whoever waits has nothing to wait for."""

    def __init__(self, device: Any = None) -> None:
        self.num_waits = 0

    def wait_stream(self, other: Any) -> None:
        """Order this stream after another."""
        assert isinstance(other, Stream)
        self.num_waits += 1


class Event:
    """Has always happened."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.recorded = False

    def record(self) -> None:
        """Happen."""
        self.recorded = True

    def query(self) -> bool:
        """Whether it happened."""
        return True

    def synchronize(self) -> None:
        """Wait for what was recorded."""


class Graph:
    """Calls on the device, noted and called again; only the memory that was captured changes."""

    failure = ""
    broken = False
    num_replays = 0

    def capture_begin(self, pool: Any = None) -> None:
        """Note what follows."""
        assert pool == "pool"
        self._noting = _Noting()
        self._noting.__enter__()

    def capture_end(self) -> None:
        """Note no more."""
        self._noting.__exit__(None, None, None)
        if Graph.failure:
            raise RuntimeError(Graph.failure)

    def replay(self) -> None:
        """Call everything again, into what it returned first."""
        Graph.num_replays += 1
        with torch.inference_mode():
            for func, args, kwargs, old in self._noting.calls:
                new = func(*args, **kwargs)
                for into, value in zip(*map(trees.tree_leaves, (old, new)), strict=True):
                    if isinstance(into, DeviceTensor) and into is not value:
                        with torch.inference_mode(into.host.is_inference()):
                            into.host.copy_(_wrong(value.host) if Graph.broken else value.host)


def _wrong(host: torch.Tensor) -> torch.Tensor:
    return host * 1.5 if host.is_floating_point() else host


class _Noting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, value))
        return value


def _no_memory_info(device: Any = None) -> tuple[int, int]:
    raise RuntimeError("The device doesn't support querying the available free memory.")


def open_xpu() -> str:
    """Make torch know the device, and return its name."""
    open_device()
    current = [Stream()]

    @contextmanager
    def stream(wanted: Stream) -> Iterator[None]:
        current.append(wanted)
        yield
        current.pop()

    module: Any = ModuleType(f"torch.{NAME}")
    vars(module).update(
        Stream=Stream,
        Event=Event,
        XPUGraph=Graph,
        graph_pool_handle=lambda: "pool",
        current_stream=lambda device=None: current[-1],
        stream=stream,
        synchronize=lambda device=None: None,
        mem_get_info=_no_memory_info,
        memory_reserved=lambda device=None: 1 << 20,
        memory_allocated=lambda device=None: 1 << 20,
        empty_cache=lambda: None,
        get_device_properties=lambda device=None: PROPERTIES,
        device_count=lambda: 1,
        current_device=lambda: 0,
        is_available=lambda: True,
    )
    setattr(torch, NAME, module)
    sys.modules[module.__name__] = module
    # A torch with XPU pins memory for it; this one has nothing to pin for.
    empty = torch.empty
    torch.empty = lambda *sizes, pin_memory=False, **kwargs: empty(*sizes, **kwargs)
    others: list[tuple[Any, str, Any]] = [
        (torch.Tensor, "pin_memory", lambda self: self.clone()),
        (torch, "Stream", Stream),
    ]
    for owner, name, stand_in in others:
        setattr(owner, name, stand_in)
    return DEVICE
