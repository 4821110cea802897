"""Sampling and work over the vocabulary, interpreted: against numpy in float64, and torch."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tests.unit.triton.world import check_op, op_cases

from tupelo.ops import OpSpec, Sample
from tupelo.ops.samples_sampling import filtered
from tupelo.triton import sampling, vocab

KERNELS: dict[str, Callable[..., Any]] = {
    "apply_token_bitmask": vocab.apply_token_bitmask,
    "sample_top_k_top_p": sampling.sample_top_k_top_p,
}


@pytest.mark.parametrize(("spec", "sample", "dtype"), op_cases(*KERNELS))
def test_op(spec: OpSpec, sample: Sample, dtype: str) -> None:
    check_op(spec, sample, dtype, KERNELS[spec.name])


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(-1, 1.0, 0.0), (7, 1.0, 0.0), (-1, 0.7, 0.0), (-1, 1.0, 0.1), (9, 0.9, 0.05), (1, 1e-6, 1.0)],
)
@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
def test_every_kept_id_is_drawn_where_its_interval_lies(
    top_k: int, top_p: float, min_p: float, tied: bool
) -> None:
    torch.manual_seed(3)
    row = torch.randn(50) * 2
    row = row.round() if tied else row
    row[4] = -1e30
    ids, probs = filtered(row.numpy(), top_k, top_p, min_p)
    ends = np.cumsum(probs)
    middles = ends - probs / 2
    rows = len(ids)
    got = sampling.sample_top_k_top_p(
        row.expand(rows, -1).contiguous(),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p),
        torch.full((rows,), min_p),
        torch.from_numpy(middles).float(),
    )
    clear = probs > 1e-5
    assert got.numpy()[clear].tolist() == ids[clear].tolist()


def test_draw_at_the_ends_of_the_unit_interval() -> None:
    row = torch.tensor([[0.0, 3.0, -1e30, 1.0, 3.0]])
    top_k, zero, one = torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([1.0])
    almost = torch.tensor([0.99999994])
    assert sampling.sample_top_k_top_p(row, top_k, one, zero, zero).tolist() == [1]
    assert sampling.sample_top_k_top_p(row, top_k, one, zero, almost).tolist() == [0]
    assert sampling.sample_top_k_top_p(row, top_k, zero, zero, almost).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [50, 9000])
def test_argmax_is_the_first_of_the_largest(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    logits = torch.randn(3, size).to(dtype)
    logits[1, 7] = logits[1, size - 1] = 9.0
    logits[2] = -torch.inf
    assert vocab.argmax(logits).tolist() == [int(logits[0].argmax()), 7, 0]


@pytest.mark.parametrize("size", [50, 9000])
def test_gathered_logprobs(size: int) -> None:
    torch.manual_seed(size)
    logits = torch.randn(4, size) * 5
    logits[1, ::2] = -1e30
    ids = torch.tensor([0, 1, size - 1, 3])
    want = torch.log_softmax(logits.double(), -1).gather(1, ids[:, None])[:, 0].float()
    torch.testing.assert_close(vocab.gather_logprobs(logits, ids), want, atol=1e-5, rtol=1e-5)
