"""ACL graphs: decode steps captured by torch-npu, with the lengths of the step to be replayed.

CANN reads the rows' lengths of a fused attention on the host, when it is submitted. A graph would
keep those that it was captured with: torch-npu records such calls while it captures, and submits
them again with other lengths, into the same place of the graph, before a replay.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tupelo.backend.graphs.capture import TorchCapture, TorchGraph

LENGTHS = "actual_seq_lengths_kv"
"""The argument that torch-npu replaces in its records."""


class HostLengths:
    """The lengths of the decode step that was planned last; one for an engine's attention and its
    graphs, which a runner uses in turn.

    Attributes:
        now: K/V length of each row of the step's bucket, at least 1.
        running: an event after the last replay; None before the first.
    """

    def __init__(self) -> None:
        self.now: Sequence[int] = ()
        self.running: Any | None = None


class NpuGraph(TorchGraph):
    """One ACL graph whose attention sees the lengths of the step that was planned last."""

    def __init__(self, npu: Any, lengths: HostLengths) -> None:
        self._npu = npu
        self._lengths = lengths
        self._graph = npu.NPUGraph()
        self._graph.auto_dispatch_capture = True

    def capture_begin(self, *, pool: Any, capture_error_mode: str) -> None:
        """As ``TorchGraph``."""
        self._recording = self._graph.graph_dispatch_mode
        self._recording.__enter__()
        try:
            self._graph.capture_begin(pool=pool, capture_error_mode=capture_error_mode)
        except BaseException:
            self._recording.__exit__(None, None, None)
            raise

    def capture_end(self) -> None:
        """As ``TorchGraph``."""
        try:
            self._graph.capture_end()
        finally:
            self._recording.__exit__(None, None, None)

    def replay(self) -> None:
        """As ``Graph``. A graph that still runs must not be given other lengths, so it waits for
        the replay before."""
        lengths = self._lengths
        if lengths.running is None:
            lengths.running = self._npu.Event()
        else:
            lengths.running.synchronize()
        self._graph.update(cpu_update_input=[{LENGTHS: list(lengths.now)}])
        self._graph.replay()
        lengths.running.record()


def acl_capture(lengths: HostLengths, captured: Callable[[], None]) -> TorchCapture:
    """A capture of ACL graphs; ``captured`` is told of each."""
    import torch_npu

    npu = torch_npu.npu
    return TorchCapture(
        lambda: NpuGraph(npu, lengths), npu.graph_pool_handle(), _unowned(torch_npu._C), captured
    )


def _unowned(library: Any) -> Callable[[Tensor], Tensor]:
    """How torch-npu makes tensors that do not keep their memory allocated; itself, which does,
    where a release has none."""
    make: Callable[[Tensor], Tensor] = getattr(library, "_weak_ref_tensor", lambda tensor: tensor)
    return make
