"""Latent attention stores what its formula says, and no more."""

from pathlib import Path

from tests.parity.families import FAMILIES

from tupelo.backend import TorchKVPool, TorchRuntime
from tupelo.checkpoint import open_checkpoint
from tupelo.models import build_model


def test_only_the_latent_and_the_rotated_key_are_stored(tmp_path: Path) -> None:
    next(f for f in FAMILIES if f.id == "deepseek-v3").save(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    model = build_model(checkpoint.config, max_length=128)
    layers, rank, rope, float32 = 3, 24, 8, 4
    (spec,) = model.kv_specs
    assert spec.bytes_per_token() == layers * (rank + rope) * float32
    pool = TorchKVPool(model.kv_specs, [10], 16, TorchRuntime("cpu"))
    scratch_page = 1
    assert pool.num_bytes() == (10 + scratch_page) * 16 * spec.bytes_per_token()
