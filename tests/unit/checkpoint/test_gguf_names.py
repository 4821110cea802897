"""Where a GGUF file's tensors go: experts out of stacks, latents out of parts, what is left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tupelo.checkpoint import open_checkpoint
from tupelo.errors import CheckpointError

EXPERTS, SIZE, HIDDEN = 3, 16, 32
MOE_KEYS = {
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "expert_feed_forward_length": SIZE,
    "attention.key_length": 8,
    "attention.value_length": 8,
}
LATENT_KEYS = {
    **MOE_KEYS,
    "rope.dimension_count": 4,
    "attention.kv_lora_rank": 12,
    "attention.key_length": 10,
    "expert_gating_func": 2,
}
Write = Callable[..., Path]
Keys = Callable[..., dict[str, Any]]


@pytest.fixture
def moe_tensors(gguf_tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two layers of Qwen3-MoE, as far as names go."""
    rng = np.random.default_rng(5)
    tensors = {n: a for n, a in gguf_tensors.items() if "ffn_" not in n or "norm" in n}
    for layer in range(2):
        shapes = {"gate": (SIZE, HIDDEN), "up": (SIZE, HIDDEN), "down": (HIDDEN, SIZE)}
        for part, shape in shapes.items():
            tensors[f"blk.{layer}.ffn_{part}_exps.weight"] = rng.standard_normal(
                (EXPERTS, *shape), dtype=np.float32
            )
        tensors[f"blk.{layer}.ffn_gate_inp.weight"] = np.ones((EXPERTS, HIDDEN), np.float32)
    return tensors


def test_gate_and_up_may_be_one_stack(
    write_gguf: Write, gguf_keys: Keys, moe_tensors: dict[str, np.ndarray]
) -> None:
    stacks = [moe_tensors.pop(f"blk.1.ffn_{part}_exps.weight") for part in ("gate", "up")]
    moe_tensors["blk.1.ffn_gate_up_exps.weight"] = np.concatenate(stacks, axis=1)
    path = write_gguf("qwen3moe", gguf_keys("qwen3moe", **MOE_KEYS), moe_tensors)
    checkpoint = open_checkpoint(path)
    for part, stack in zip(("gate", "up"), stacks, strict=True):
        for expert in range(EXPERTS):
            name = f"model.layers.1.mlp.experts.{expert}.{part}_proj.weight"
            np.testing.assert_array_equal(checkpoint.read(name).array, stack[expert])


def test_layers_that_guess_ahead_are_left_out(
    write_gguf: Write, gguf_keys: Keys, gguf_tensors: dict[str, np.ndarray]
) -> None:
    expected = set(open_checkpoint(write_gguf("llama", gguf_keys(), gguf_tensors)).tensors)
    further = {"blk.2.nextn.eh_proj.weight", "blk.2.attn_q.weight"}
    tensors = {**gguf_tensors, **dict.fromkeys(further, np.zeros((32, 32), np.float32))}
    keys = gguf_keys(block_count=3, nextn_predict_layers=1)
    checkpoint = open_checkpoint(write_gguf("llama", keys, tensors))
    assert checkpoint.config.num_layers == 2
    assert set(checkpoint.tensors) == expected


def test_layers_without_a_router_have_no_experts(
    write_gguf: Write, gguf_keys: Keys, moe_tensors: dict[str, np.ndarray]
) -> None:
    del moe_tensors["blk.0.ffn_gate_inp.weight"]
    path = write_gguf("qwen3moe", gguf_keys("qwen3moe", **MOE_KEYS), moe_tensors)
    experts = open_checkpoint(path).config.experts
    assert experts is not None
    assert experts.layers == (False, True)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("ffn_up_exps.weight", (SIZE, HIDDEN), "no experts"),
        ("ffn_up_exps.weight", (5000, 1, HIDDEN), "no experts"),
        ("ffn_gate_up_exps.weight", (EXPERTS, 5, HIDDEN), "as large"),
        ("ffn_up_exps.bias", (SIZE,), "shape"),
        ("attn_k_b.weight", (4, 12, 6), "no attn_v_b"),
    ],
    ids=["two axes", "too many", "odd", "bias of one", "keys alone"],
)
def test_what_does_not_fit_is_refused_by_name(
    name: str,
    shape: tuple[int, ...],
    message: str,
    write_gguf: Write,
    gguf_keys: Keys,
    moe_tensors: dict[str, np.ndarray],
) -> None:
    moe_tensors[f"blk.0.{name}"] = np.zeros(shape, np.float32)
    path = write_gguf("qwen3moe", gguf_keys("qwen3moe", **MOE_KEYS), moe_tensors)
    with pytest.raises(CheckpointError, match=rf"blk\.0\.{name}.*{message}"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "architecture", "groups"),
    [
        ({}, "DeepseekV3ForCausalLM", (1, 1)),
        ({"expert_count": 256}, "DeepseekV3ForCausalLM", (8, 4)),
        ({"expert_group_count": 3, "expert_group_used_count": 2}, "DeepseekV3ForCausalLM", (3, 2)),
        ({"expert_gating_func": 1}, "DeepseekV2ForCausalLM", (1, 1)),
    ],
    ids=["kimi", "older v3", "groups", "softmax"],
)
def test_deepseeks_are_told_apart(
    changes: dict[str, int],
    architecture: str,
    groups: tuple[int, int],
    write_gguf: Write,
    gguf_keys: Keys,
    moe_tensors: dict[str, np.ndarray],
) -> None:
    keys = {**LATENT_KEYS, "expert_count": 6, **changes}
    path = write_gguf("deepseek2", gguf_keys("deepseek2", **keys), moe_tensors)
    config = open_checkpoint(path).config
    assert (config.architecture, config.head_dim) == (architecture, 16)
    assert config.experts is not None
    assert (config.experts.num_groups, config.experts.top_groups) == groups
