"""Tables of cosines and sines against transformers', for every kind of rope scaling."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tupelo.checkpoint import RopeConfig, parse_hf_config
from tupelo.layers.rotary import RotaryTable

TRAINED = 64
MAX_POSITIONS = 256
HEAD_DIM = 48

_LONG = {
    "short_factor": [1.0 + 0.1 * i for i in range(HEAD_DIM // 2)],
    "long_factor": [1.5 + 0.5 * i for i in range(HEAD_DIM // 2)],
    "original_max_position_embeddings": TRAINED,
}
_YARN = {"factor": 4.0, "original_max_position_embeddings": TRAINED}
_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": TRAINED,
}

CASES: list[tuple[str, dict[str, Any], int]] = [
    ("default", {}, MAX_POSITIONS),
    ("linear", {"factor": 3.0}, MAX_POSITIONS),
    ("llama3", _LLAMA3, MAX_POSITIONS),
    ("llama3", {**_LLAMA3, "high_freq_factor": 1.0}, MAX_POSITIONS),
    ("yarn", _YARN, MAX_POSITIONS),
    ("yarn", {**_YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}, MAX_POSITIONS),
    ("yarn", {**_YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, MAX_POSITIONS),
    ("yarn", {**_YARN, "attention_factor": 1.25}, MAX_POSITIONS),
    ("dynamic", {"factor": 2.0}, MAX_POSITIONS),
    ("dynamic", {"factor": 2.0}, 4 * MAX_POSITIONS),
    ("longrope", {**_LONG, "factor": 4.0}, TRAINED),
    ("longrope", {**_LONG, "factor": 4.0}, MAX_POSITIONS),
    ("longrope", _LONG, MAX_POSITIONS),
]


def _config(kind: str, fields: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=96,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **fields},
    )


def _rope(config: LlamaConfig) -> RopeConfig:
    values = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    return parse_hf_config(values).ropes["global"]


def _expected(config: LlamaConfig, length: int) -> Tensor:
    """Of a sequence as long as the table: cosines, then sines, each half of what is repeated."""
    positions = torch.arange(length).unsqueeze(0)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    half = HEAD_DIM // 2
    return torch.cat((cos[0, :, :half], sin[0, :, :half]), dim=1)


@pytest.mark.parametrize(
    ("kind", "fields", "length"), CASES, ids=[f"{k}-{n}-{i}" for i, (k, _, n) in enumerate(CASES)]
)
def test_table_equals_transformers(kind: str, fields: dict[str, Any], length: int) -> None:
    config = _config(kind, fields)
    rotary = RotaryTable(_rope(config), length)
    table = rotary.cos_sin(torch.device("cpu"))
    assert table.dtype == torch.float32
    assert rotary.num_bytes() == table.nbytes
    # A frequency may differ in its last bit, which the position multiplies: 2^-24 x 1024.
    torch.testing.assert_close(table, _expected(config, length), atol=1e-4, rtol=0)


def test_every_kind_has_a_case() -> None:
    from tupelo.checkpoint.rope import ROPE_KINDS

    assert {kind for kind, _, _ in CASES} == set(ROPE_KINDS)


def test_dynamic_is_plain_within_the_trained_length() -> None:
    """A table shorter than the trained length is a part of the one that fills it."""
    rope = _rope(_config("dynamic", {"factor": 2.0}))
    device = torch.device("cpu")
    short = RotaryTable(rope, TRAINED).cos_sin(device)
    assert torch.equal(short, RotaryTable(rope, MAX_POSITIONS).cos_sin(device)[:TRAINED])


def test_partial_rotation_makes_a_narrower_table() -> None:
    config = _config("default", {"partial_rotary_factor": 0.5})
    table = RotaryTable(_rope(config), 16).cos_sin(torch.device("cpu"))
    assert table.shape == (16, HEAD_DIM // 2)
    angles = torch.outer(torch.arange(16.0), 10000.0 ** (-torch.arange(0, 24, 2) / 24))
    torch.testing.assert_close(table, torch.cat((angles.cos(), angles.sin()), 1))
