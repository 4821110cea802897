"""Core's kernels in the sizes of architectures with few registers: right, and refused by name where
there is none; that they compile is ``ci/rocm/compile.py``'s."""

import logging

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

from dataclasses import replace

import torch
from tests.unit.step_inputs import step
from tests.unit.triton.test_attention import GROUPS, cases
from tupelo_rocm.arch import TESTED, find_arch
from tupelo_rocm.attention import RocmAttention
from tupelo_rocm.attention_tuning import attention_tuning, why_not
from tupelo_rocm.options import Options
from tupelo_rocm.product_tuning import launches

from tupelo.backend import TorchKVPool, TorchRuntime
from tupelo.batch import Bucket
from tupelo.conformance.case import Case
from tupelo.specs import AttentionSpec, KVSpec
from tupelo.triton.choices import Product
from tupelo.triton.tuning import AttentionTuning

RDNA = TESTED["gfx1100"]
SCENARIOS = (
    *("mixed/page_4", "soft_cap/window", "padding", "geometry/heads_6_2/dim_80"),
    *(GROUPS + "several", GROUPS + "soft_cap"),
)


@pytest.mark.parametrize(
    "case",
    cases(replace(attention_tuning(RDNA, 3), min_shared_keys=16, min_split_tokens=1), *SCENARIOS),
)
def test_scenario(case: Case) -> None:
    case.run()


def test_who_has_which_sizes() -> None:
    usual = AttentionTuning()
    assert attention_tuning(TESTED["gfx942"], 304).extend is usual.extend
    for arch in (TESTED["gfx1201"], find_arch("gfx1330")):
        tuning = attention_tuning(arch, 64)
        assert tuning.target_programs == 256
        for head_dim in (64, 128, 256):
            for itemsize in (2, 4):
                assert tuning.extend(head_dim, itemsize).one_loop
                assert tuning.shared(head_dim, itemsize).rows <= tuning.shared_rows


@pytest.mark.parametrize("rows", [16, 64])
def test_launches_of_products_are_no_wider_than_registers_allow(rows: int) -> None:
    plain = Product("linear", 4096, 4096, "bfloat16", rows, False)
    gated = Product("gated_silu", 8192, 4096, "bfloat16", rows, False)
    narrow, wide = launches(RDNA), launches(TESTED["gfx950"])
    assert narrow.of(plain)
    assert all(c.block_n * c.block_k <= 4096 for c in narrow.of(plain))
    assert narrow.of(gated)
    assert all(2 * c.block_n * c.block_k <= 4096 for c in narrow.of(gated))
    assert any(2 * c.block_n * c.block_k > 4096 for c in wide.of(gated))


def test_heads_without_sizes_are_the_reference_s(caplog: pytest.LogCaptureFixture) -> None:
    kind = AttentionSpec(group=0, num_heads=2, num_kv_heads=1, head_dim=256, scale=0.1)
    kept = KVSpec(group=0, layers=(0,), num_kv_heads=1, head_dim=256, dtype="float32")
    runtime = TorchRuntime("cpu")
    attention = RocmAttention(Options(), RDNA, 4, [kind], 16, 20, runtime)
    pool = TorchKVPool([kept], [4], 16, runtime)
    plan = attention.plan(step([1], Bucket(), 20))
    q = torch.ones(1, 2, 256)
    with caplog.at_level(logging.INFO):
        attention.forward(q, q[:, :1], q[:, :1], 0, 0, pool, plan)
    assert "reference (not triton: float32 heads of 256 do not fit" in caplog.text
    assert why_not(RDNA, 256, torch.float16) == ""
    assert why_not(TESTED["gfx90a"], 256, torch.float32) == ""
