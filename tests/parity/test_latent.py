"""Latent attention stores what its formula says, and no more."""

from pathlib import Path

from tests.parity.families import FAMILIES

import tupelo_cpu
from tupelo.backend import TorchKVPool, TorchRuntime
from tupelo.checkpoint import open_checkpoint
from tupelo.engine import Engine
from tupelo.models import build_model

LAYERS, RANK, ROPE, FLOAT32, SCRATCH_PAGE = 3, 24, 8, 4, 1
TOKEN_BYTES = LAYERS * (RANK + ROPE) * FLOAT32


def test_only_the_latent_and_the_rotated_key_are_stored(tmp_path: Path) -> None:
    next(f for f in FAMILIES if f.id == "deepseek-v3").save(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    model = build_model(checkpoint.config, max_length=128)
    (spec,) = model.kv_specs
    assert spec.bytes_per_token() == TOKEN_BYTES
    pool = TorchKVPool(model.kv_specs, [10], 16, TorchRuntime("cpu"))
    assert pool.num_bytes() == (10 + SCRATCH_PAGE) * 16 * TOKEN_BYTES


def test_an_engine_takes_as_much_and_counts_it_so(tmp_path: Path) -> None:
    """What it allocated, by what its metrics say of pages."""
    next(f for f in FAMILIES if f.id == "deepseek-v3").save(tmp_path)
    params = {"max_new_tokens": 4, "ignore_eos": True}
    with Engine(
        model=str(tmp_path),
        backend=tupelo_cpu.backend(),
        dtype="float32",
        page_size=16,
        max_total_tokens=160,
    ) as engine:
        reply = engine.generate(input_ids=list(range(3, 53)), sampling_params=params)
        stats, memory = engine.stats(), engine.info.memory
    (pages,) = stats["pages_total"]
    assert memory["kv_bytes"] == (pages + SCRATCH_PAGE) * stats["page_size"] * TOKEN_BYTES
    assert stats["pages_cached"] == [50 // 16]
    assert len(reply["output_ids"]) == 4
