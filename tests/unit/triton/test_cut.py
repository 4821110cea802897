"""Attention in two parts, with the kernels interpreted, gives what it gives in one."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from tests.unit.step_inputs import step
from tests.unit.triton.test_attention import SMALL

from tupelo.backend import HeadSplit, StepInputs, TorchKVPool, TorchRuntime
from tupelo.backend.graphs.cut import CutAttention
from tupelo.backend.graphs.pieces import StepMemory
from tupelo.batch import Bucket
from tupelo.ops import OPS
from tupelo.ops.samples_elementwise import cos_sin
from tupelo.specs import AttentionSpec, KVSpec
from tupelo.triton.chosen import ChosenAttention

KIND = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)
COUNTS, LENGTHS = [1, 1, 5, 3, 1], [9, 14, 7, 3, 6]
"""Two decode rows, a prompt's second chunk, a whole prompt, and a last chunk of one token."""

PADDED = 16


class Portable(ChosenAttention):
    """Core's kernels, and nothing else."""

    setting = "TUPELO_TEST_ATTENTION"
    lacks: ClassVar = {}


def inputs_of(table: torch.Tensor) -> StepInputs:
    """A step of these rows, in slots out of order."""
    inputs = step(COUNTS, Bucket())
    inputs.host.num_decode_rows = 2
    inputs.host.seq_lens = np.array(LENGTHS, np.int32)
    inputs.seq_lens = torch.tensor(LENGTHS, dtype=torch.int32)
    inputs.slots = torch.tensor([3, 0, 4, 1, 2])
    inputs.page_tables = (table,)
    places = (table[:, :, None].long() * 4 + torch.arange(4)).flatten(1)[inputs.slots]
    ends = list(zip(places, LENGTHS, COUNTS, strict=True))
    inputs.slot_mapping = (torch.cat([p[n - c : n] for p, n, c in ends]),)
    inputs.positions = torch.cat([torch.arange(n - c, n) for _, n, c in ends])
    return inputs


def test_in_two_parts_as_in_one() -> None:
    torch.manual_seed(3)
    runtime = TorchRuntime("cpu")
    stored = KVSpec(group=0, layers=(0,), num_kv_heads=2, head_dim=16, dtype="float32")
    pools = [TorchKVPool([stored], [24], 4, runtime) for _ in range(2)]
    for one, other in zip(pools[0].buffers(0), pools[1].buffers(0), strict=True):
        other.copy_(one.normal_())
    split = HeadSplit(
        fn=OPS["norm_rope_qkv"].reference,
        cos_sin=cos_sin(32, 16),
        q_norm=None,
        k_norm=None,
        eps=1e-5,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
    )
    attention = Portable("triton", replace(SMALL, max_splits=4), [KIND], 4, 6, runtime)
    assert isinstance(attention, CutAttention)
    inputs = inputs_of(torch.randperm(24)[:20].reshape(5, 4).int())
    count = sum(COUNTS)
    qkv = torch.randn(PADDED, 8 * 16)
    plan = attention.plan(inputs)
    args = (qkv[:count], inputs.positions, split, 0, 0)
    want = attention.forward_qkv(*args, pools[0], plan)

    memory = StepMemory(32, 6, inputs)
    decode_plan = attention.plan(memory.decode_inputs(PADDED))
    memory.positions.fill_(7)
    memory.fill(inputs, PADDED)
    begun = attention.begin_qkv(qkv, memory.positions[:PADDED], split, 0, 0, pools[1], decode_plan)
    assert begun is not None
    torch.testing.assert_close(begun.out[:2], want[:2], atol=1e-6, rtol=1e-5)
    attention.finish_qkv(begun, 0, 0, pools[1], plan)
    torch.testing.assert_close(begun.out[:count], want, atol=1e-6, rtol=1e-5)
    for one, other in zip(pools[0].buffers(0), pools[1].buffers(0), strict=True):
        assert torch.equal(one, other)
