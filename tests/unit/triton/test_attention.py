"""The portable attention, interpreted, in the conformance kit's scenarios: a dense oracle."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from tests.unit.step_inputs import step
from tests.unit.triton.world import kit_cases

from tupelo.backend import Backend, Capabilities, TorchKVPool, TorchRuntime
from tupelo.batch import Bucket
from tupelo.conformance.case import Case
from tupelo.conformance.dense import attend
from tupelo.conformance.levels.attention import attention_cases
from tupelo.conformance.target import Target
from tupelo.errors import ContractError
from tupelo.ops.samples_elementwise import cos_sin
from tupelo.specs import AttentionSpec, KVSpec
from tupelo.triton.attention import TritonAttention
from tupelo.triton.paged import store_kv
from tupelo.triton.rope import norm_rope_qkv, norm_rope_qkv_store
from tupelo.triton.tuning import AttentionTuning, DecodeConfig, ExtendConfig, SharedConfig

SMALL = AttentionTuning(
    target_programs=64,
    min_split_tokens=1,
    decode=lambda head_dim, itemsize: DecodeConfig(block=16, num_warps=1, num_stages=1),
    extend=lambda head_dim, itemsize: ExtendConfig(rows=16, block=16, num_warps=1, num_stages=1),
    shared_rows=32,
    shared_programs=12,
    min_shared_keys=16,
    shared=lambda head_dim, itemsize: SharedConfig(rows=16, block=16, num_warps=1, num_stages=1),
)
"""Small tiles, so that the kit's short rows have several splits, tiles and parts of tiles."""

SPLITTING = ("decode/page_4", "long", "many_rows", "padding", "refilled_plan", "soft_cap/window")
GROUPS = "prefix_groups/"
USUAL_GROUPS = (
    *("several", "mixed", "all_rows", "soft_cap", "dtype/float16"),
    *("geometry/heads_6_2/dim_80", "geometry/heads_8_1/dim_16"),
)
"""Of the scenarios with groups, which interpreted take long, those at usual sizes."""
WINDOWED = ("window/chunks", "window/padding", "mixed/page_4", "shared_in_the_same_step")


def cases(tuning: AttentionTuning, *names: str) -> list[object]:
    """Scenarios of the kit, all or the named ones, for attention of some sizes."""
    backend = Backend(
        name="portable",
        device="cpu",
        capabilities=Capabilities(
            dtypes=("float32", "float16"),
            page_sizes=(1, 4),
            head_dims=(16, 80, 128),
            same_step_sharing=True,
            prefix_group_tokens=1,
        ),
        attention=partial(TritonAttention, tuning=tuning),
    )
    found = {
        p.id.removeprefix("attention/"): p for p in kit_cases(attention_cases(Target(backend)))
    }
    usual = [n for n in found if not n.startswith(GROUPS)] + [GROUPS + n for n in USUAL_GROUPS]
    return [found[name] for name in names or usual]


@pytest.mark.parametrize("case", cases(AttentionTuning(shared_programs=12)))
def test_usual_sizes(case: Case) -> None:
    case.run()


@pytest.mark.parametrize("case", cases(SMALL, *SPLITTING, GROUPS + "long"))
def test_splits_merged_by_a_second_launch(case: Case) -> None:
    case.run()


@pytest.mark.parametrize(
    "case",
    cases(replace(SMALL, fused_merge=True), *SPLITTING, *WINDOWED, GROUPS + "refilled_plan"),
)
def test_splits_merged_by_the_last_of_them(case: Case) -> None:
    case.run()


def test_a_plan_that_decodes_only_is_not_refilled_with_more() -> None:
    """A bucket of as many rows as tokens may hold either; the contract then wants a new plan."""
    kind = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)
    attention = TritonAttention([kind], 16, 256, TorchRuntime("cpu"))
    decoding, mixed = step([1, 1], Bucket(4, 4)), step([1, 2], Bucket(4, 4))
    mixed.page_tables = decoding.page_tables
    plan = attention.plan(decoding)
    assert attention.plan(decoding, plan) is plan
    other = attention.plan(mixed, plan)
    assert other is not plan
    assert attention.plan(decoding, other) is other
    assert attention.plan(step([1, 1], Bucket()), plan) is not plan


def test_functional_storage_is_refused() -> None:
    with pytest.raises(ContractError, match="in place"):
        TritonAttention([], 16, 4, TorchRuntime("cpu"), in_place=False)


def test_qkv_written_straight_into_pages() -> None:
    """``norm_rope_qkv_store`` is ``norm_rope_qkv`` and ``store_kv``, padding left out."""
    torch.manual_seed(0)
    qkv, positions = torch.randn(3, (4 + 2 * 2) * 16), torch.tensor([5, 0, 9])
    table, norm = cos_sin(16, 8), 1 + torch.rand(16)
    mapping = torch.tensor([6, -1, 3])
    q, k, v = norm_rope_qkv(qkv, positions, table, norm, None, 1e-5, 4, 2, 16)
    split, fused = torch.zeros(2, 3, 4, 2, 16), torch.zeros(2, 3, 4, 2, 16)
    store_kv(k, v, split[0], split[1], mapping)
    kept = torch.zeros(3, 2, 16)
    sizes = (qkv, positions, table, norm, None, 1e-5, 4, 2, 16)
    got = norm_rope_qkv_store(*sizes, fused[0], fused[1], mapping, kept)
    assert torch.equal(kept, k)
    fused.zero_()
    norm_rope_qkv_store(*sizes, fused[0], fused[1], mapping)
    want = torch.zeros(2, 3, 4, 2, 16)
    want[0].flatten(0, 1)[[6, 3]] = k[[0, 2]]
    want[1].flatten(0, 1)[[6, 3]] = v[[0, 2]]
    assert torch.equal(split, want)
    assert torch.equal(fused, want)
    assert torch.equal(got, q)


@pytest.mark.parametrize("fused", [False, True])
def test_warming_up_touches_no_page(fused: bool) -> None:
    runtime = TorchRuntime("cpu")
    kinds = [
        AttentionSpec(group=g, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25, window=w)
        for g, w in enumerate((None, 5))
    ]
    stored = [
        KVSpec(group=g, layers=(g,), num_kv_heads=2, head_dim=16, dtype="float32", window=w)
        for g, w in enumerate((None, 5))
    ]
    pool = TorchKVPool(stored, [3, 3], 4, runtime)
    attention = TritonAttention(
        kinds, 4, 16, runtime, tuning=replace(SMALL, max_splits=4, fused_merge=fused)
    )
    for index in (0, 1):
        attention.warmup(index, index, pool, torch.float32)
    for layer in (0, 1):
        for buffer in pool.buffers(layer):
            assert not buffer.any()


def test_a_chunk_of_one_token_after_longer_ones_is_attended() -> None:
    """Only the batch's first rows are decode rows; a prompt's last chunk may be one token too."""
    torch.manual_seed(1)
    kind = AttentionSpec(group=0, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)
    stored = KVSpec(group=0, layers=(0,), num_kv_heads=2, head_dim=16, dtype="float32")
    runtime = TorchRuntime("cpu")
    pool = TorchKVPool([stored], [12], 4, runtime)
    for buffer in pool.buffers(0):
        buffer.normal_()
    counts, lengths = [1, 5, 1], [9, 7, 6]
    inputs = step(counts, Bucket())
    inputs.host.num_decode_rows = 1
    inputs.seq_lens = torch.tensor(lengths, dtype=torch.int32)
    inputs.slots = torch.tensor([2, 0, 1])
    table = torch.randperm(12).reshape(3, 4).int()
    places = (table[:, :, None].long() * 4 + torch.arange(4)).flatten(1)[inputs.slots]
    ends = list(zip(places, lengths, counts, strict=True))
    inputs.page_tables = (table,)
    inputs.slot_mapping = (torch.cat([p[n - c : n] for p, n, c in ends]),)
    attention = TritonAttention([kind], 4, 4, runtime)
    q, k, v = torch.randn(7, 4, 16), torch.randn(7, 2, 16), torch.randn(7, 2, 16)
    out = attention.forward(q, k, v, 0, 0, pool, attention.plan(inputs))
    keys, values = (b.flatten(0, 1).double().numpy() for b in pool.buffers(0))
    want = [
        attend(one.double().numpy(), keys[p[:n]], values[p[:n]], scale=0.25)
        for one, (p, n, _) in zip(torch.split(q, counts), ends, strict=True)
    ]
    torch.testing.assert_close(out.double().numpy(), np.concatenate(want), atol=1e-5, rtol=1e-5)
