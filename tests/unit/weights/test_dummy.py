"""Dummy weights: seeded, the same for every split, and good for generating."""

import pytest
import torch
from tests.parity.harness import Driver
from tests.unit.weights.tiny import BIASED, GEMMA, LLAMA, QWEN3, TIED, Config, by_source

from tupelo.backend.collectives import TorchCollectives
from tupelo.checkpoint import parse_hf_config
from tupelo.layers import Parallel
from tupelo.models import Model, build_model
from tupelo.weights import dummy_weights

CONFIGS = {"llama": LLAMA, "tied": TIED, "biased": BIASED, "qwen3": QWEN3, "gemma3": GEMMA}


def _dummy(config: Config, seed: int, dtype: str = "float32") -> Model:
    model = build_model(parse_hf_config(config), dtype=dtype)
    dummy_weights(model, seed, device="cpu")
    return model


def test_values_depend_on_seed_and_name_alone() -> None:
    first, again, other = (by_source(_dummy(LLAMA, seed)) for seed in (1, 1, 2))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        assert name.endswith("norm.weight") or not torch.equal(tensor, other[name]), name
    q, o = (first[f"model.layers.0.self_attn.{p}_proj.weight"] for p in "qo")
    assert not torch.equal(q, o)
    assert len(q.unique(dim=0)) == len(q)


def test_a_rank_has_its_part_of_the_whole() -> None:
    whole = by_source(_dummy(LLAMA, 3))
    group = TorchCollectives()
    group.rank, group.world_size = 1, 2
    model = build_model(parse_hf_config(LLAMA), parallel=Parallel(group))
    dummy_weights(model, 3, device="cpu")
    part = by_source(model)
    prefix = "model.layers.1"
    name = f"{prefix}.self_attn.k_proj.weight"
    assert torch.equal(part[name], whole[name][8:])
    name = f"{prefix}.mlp.down_proj.weight"
    assert torch.equal(part[name], whole[name][:, 20:])
    assert torch.equal(part["lm_head.weight"], whole["lm_head.weight"][24:])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("num_layers", [2, 12], ids=lambda n: f"{n}layers")
@pytest.mark.parametrize("name", CONFIGS)
def test_generation_is_finite_and_varied(name: str, num_layers: int, dtype: str) -> None:
    """Shallow and deep: values neither grow nor vanish, and tokens do not repeat for ever."""
    config = {**CONFIGS[name], "num_hidden_layers": num_layers, "vocab_size": 500}
    driver = Driver(_dummy(config, 0, dtype), page_size=16, max_length=64)
    rows = driver.generate([[1, 2, 3, 4], [400]], new_tokens=20)
    logits = torch.cat([part for row in rows for part in row.logits])
    assert torch.isfinite(logits).all()
    assert 0.3 < float(logits.std()) < 10
    for row in rows:
        assert len(set(row.generated)) > 4, row.generated
