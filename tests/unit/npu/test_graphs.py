"""ACL graphs on a torch-npu that is made up: each replay is given the lengths of the step that was
planned last, and none while another runs."""

from typing import Any

import pytest
import torch
from tupelo_npu.graphs import LENGTHS, HostLengths, NpuGraph, _unowned

from tupelo.backend.graphs.capture import TorchCapture


class _Npu:
    """``torch.npu`` as far as graphs need it; notes what is done."""

    def __init__(self, fails: bool = False) -> None:
        self.log: list[Any] = []
        self.fails = fails

    def NPUGraph(self) -> "_Graph":
        return _Graph(self)

    def Event(self) -> "_Event":
        return _Event(self.log)


class _Event:
    def __init__(self, log: list[Any]) -> None:
        self._log = log

    def record(self) -> None:
        self._log.append("record")

    def synchronize(self) -> None:
        self._log.append("wait")


class _Graph:
    """torch-npu's: what it is asked for goes to the log."""

    def __init__(self, npu: _Npu) -> None:
        self._npu = npu
        self.auto_dispatch_capture = False
        self.graph_dispatch_mode = self

    def __enter__(self) -> None:
        self._npu.log.append("note calls")

    def __exit__(self, *error: object) -> None:
        self._npu.log.append("note no calls")

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        if self._npu.fails:
            raise RuntimeError("a stream is capturing already")
        self._npu.log.append(("begin", pool, capture_error_mode))

    def capture_end(self) -> None:
        self._npu.log.append("end")

    def update(self, cpu_update_input: list[dict[str, Any]]) -> None:
        assert self.auto_dispatch_capture
        self._npu.log.append(("update", cpu_update_input))

    def replay(self) -> None:
        self._npu.log.append("replay")


def test_calls_are_noted_while_it_captures() -> None:
    npu, captured = _Npu(), []
    capture = TorchCapture(
        lambda: NpuGraph(npu, HostLengths()), "pool", torch.clone, lambda: captured.append(1)
    )
    _, (value,) = capture(lambda: (torch.ones(2),))
    assert npu.log == ["note calls", ("begin", "pool", "thread_local"), "end", "note no calls"]
    assert value.tolist() == [1, 1]
    assert captured == [1]


def test_a_capture_that_fails_leaves_nothing_open() -> None:
    npu = _Npu(fails=True)
    capture = TorchCapture(lambda: NpuGraph(npu, HostLengths()), None, torch.clone, lambda: None)
    with pytest.raises(RuntimeError, match="capturing already"):
        capture(lambda: (torch.ones(2),))
    assert npu.log == ["note calls", "note no calls"]


def test_a_replay_has_the_lengths_of_its_step_and_waits_for_the_one_before() -> None:
    npu, lengths = _Npu(), HostLengths()
    first, second = NpuGraph(npu, lengths), NpuGraph(npu, lengths)
    lengths.now = [7, 1]
    first.replay()
    lengths.now = [8, 3, 1, 1]
    second.replay()
    assert npu.log == [
        ("update", [{LENGTHS: [7, 1]}]),
        "replay",
        "record",
        "wait",
        ("update", [{LENGTHS: [8, 3, 1, 1]}]),
        "replay",
        "record",
    ]


def test_results_are_not_owned_where_torch_npu_can() -> None:
    class Library:
        _weak_ref_tensor = staticmethod(torch.detach)

    x = torch.ones(3)
    assert _unowned(Library)(x) is not x
    assert _unowned(object())(x) is x
