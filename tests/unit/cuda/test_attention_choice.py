"""An attention whose kernels do not compile is passed over, and said so, at the first forward."""

import logging
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import torch
from tests.unit.triton.launches import empty, step
from triton.compiler import compiler
from tupelo_cuda import attention
from tupelo_cuda.attention import CudaAttention
from tupelo_cuda.options import Options

from tupelo.backend import TorchKVPool, TorchRuntime
from tupelo.batch import Bucket
from tupelo.errors import CapabilityError
from tupelo.specs import AttentionSpec, KVSpec
from tupelo.triton.attention import TritonAttention

HEADS, DIM, PAGE = 2, 16, 4
KIND = AttentionSpec(group=0, num_heads=HEADS, num_kv_heads=HEADS, head_dim=DIM, scale=0.25)


def uncompilable(*args: Any, **kwargs: Any) -> None:
    """What Triton's own compiler does with a source that it cannot read: raises."""
    compiler.compile(object(), target=None)


def failing(*args: Any, **kwargs: Any) -> None:
    """A device that fails while kernels warm up."""
    raise RuntimeError("an illegal memory access was encountered")


def forward(made: CudaAttention) -> torch.Tensor:
    """One row of one new token, which is all that it sees."""
    runtime = TorchRuntime("cpu")
    stored = KVSpec(group=0, layers=(0,), num_kv_heads=HEADS, head_dim=DIM, dtype="float32")
    pool = TorchKVPool([stored], [8], PAGE, runtime)
    inputs = step([1], Bucket(1, 1))
    inputs.seq_lens.fill_(1)
    inputs.host.seq_lens[:] = 1
    q, v = empty(1, HEADS, DIM, dtype=torch.float32).fill_(0.5), torch.arange(32.0)
    return made.forward(q, q, v.view(1, HEADS, DIM), 0, 0, pool, made.plan(inputs))


def make(wanted: str) -> CudaAttention:
    """Attention of one spec."""
    return CudaAttention(Options(attention=wanted), [KIND], PAGE, 16, TorchRuntime("cpu"))


def test_the_next_one_serves_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention.CudaAttention, "_make_flashinfer", lambda *a: "absent")
    monkeypatch.setattr(TritonAttention, "warmup", uncompilable)
    with caplog.at_level(logging.WARNING):
        out = forward(make("auto"))
    assert torch.equal(out.flatten(), torch.arange(32.0))
    (record,) = caplog.records
    assert "reference" in record.message
    assert "not triton: a kernel of it does not compile" in record.message


def test_one_that_was_asked_for_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TritonAttention, "warmup", uncompilable)
    with pytest.raises(CapabilityError, match=r"TUPELO_CUDA_ATTENTION=triton.*does not compile"):
        forward(make("triton"))


def test_a_failing_device_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TritonAttention, "warmup", failing)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        forward(make("triton"))


def test_what_is_passed_over_is_planned_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.CudaAttention, "_make_flashinfer", lambda *a: "absent")
    monkeypatch.setattr(TritonAttention, "warmup", uncompilable)
    made = make("auto")
    forward(made)

    def unwanted(*args: Any) -> None:
        raise AssertionError("planned")

    monkeypatch.setattr(TritonAttention, "plan", unwanted)
    plan = made.plan(step([1], Bucket(1, 1)))
    assert plan is not None
