"""GGUF models in Hugging Face's terms, against transformers' own reading of the same files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tupelo.checkpoint import Checkpoint, open_checkpoint
from tupelo.errors import CheckpointError, UnsupportedModel

GEMMA_KEYS: dict[str, Any] = {
    "attention.key_length": 16,
    "attention.value_length": 16,
    "attention.sliding_window": 24,
    "rope.dimension_count": 16,
    "rope.freq_base": 1e6,
    "block_count": 7,
}


def quantised(
    array: np.ndarray, kind: GGMLQuantizationType
) -> tuple[np.ndarray, GGMLQuantizationType]:
    return quants.quantize(array, kind), kind


def layer_tensors(rng: np.random.Generator, layers: int, head_dim: int) -> dict[str, np.ndarray]:
    """What all families have, at hidden size 32 with 4 heads and 2 K/V heads."""
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (32,),
        "attn_q": (4 * head_dim, 32),
        "attn_k": (2 * head_dim, 32),
        "attn_v": (2 * head_dim, 32),
        "attn_output": (32, 4 * head_dim),
        "ffn_norm": (32,),
        "ffn_gate": (64, 32),
        "ffn_up": (64, 32),
        "ffn_down": (32, 64),
    }
    names = {
        f"blk.{i}.{name}.weight": shape for i in range(layers) for name, shape in shapes.items()
    }
    names |= {"token_embd.weight": (64, 32), "output_norm.weight": (32,)}
    return {n: rng.standard_normal(shape, dtype=np.float32) for n, shape in names.items()}


def family_model(family: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Changed keys and tensors of a tiny model of ``family``."""
    rng = np.random.default_rng(3)
    layers = 7 if family == "gemma3" else 2
    # transformers takes qwen3's head_dim not from the file but from its default.
    head_dim = {"gemma3": 16, "qwen3": 128}.get(family, 8)
    tensors = layer_tensors(rng, layers, head_dim)
    for i in range(layers):
        extra: dict[str, int] = {}
        if family in ("qwen3", "gemma3"):
            extra |= {"attn_q_norm.weight": head_dim, "attn_k_norm.weight": head_dim}
        if family == "gemma3":
            extra |= {"post_attention_norm.weight": 32, "post_ffw_norm.weight": 32}
        if family == "qwen2":
            extra |= {"attn_q.bias": 32, "attn_k.bias": 16, "attn_v.bias": 16}
        tensors |= {
            f"blk.{i}.{n}": rng.standard_normal(s, dtype=np.float32) for n, s in extra.items()
        }
    if family != "gemma3":
        tensors["output.weight"] = rng.standard_normal((64, 32), dtype=np.float32)
    qwen3 = {
        "attention.key_length": 128,
        "attention.value_length": 128,
        "rope.dimension_count": 128,
    }
    keys = {"gemma3": GEMMA_KEYS, "qwen3": qwen3}.get(family, {})
    return keys, tensors


def theirs(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )


def assert_same_tensors(checkpoint: Checkpoint, model: Any) -> None:
    expected = model.state_dict()
    if checkpoint.config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in checkpoint.iter_tensors():
        assert tensor.dtype == "float32"
        np.testing.assert_array_equal(tensor.array, expected[name].numpy(), err_msg=name)
        assert checkpoint.tensors[name].shape == tensor.array.shape


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_tensors_equal_those_that_transformers_loads(
    family: str, write_gguf: Callable[..., Path], gguf_keys: Callable[..., dict[str, Any]]
) -> None:
    keys, tensors = family_model(family)
    stored: dict[str, Any] = dict(tensors)
    for name in tensors:
        if name.endswith(("attn_q.weight", "attn_k.weight", "ffn_up.weight")):
            stored[name] = quantised(tensors[name], GGMLQuantizationType.Q8_0)
        if name.endswith(("ffn_down.weight", "attn_output.weight")):
            stored[name] = quantised(tensors[name], GGMLQuantizationType.Q4_1)
    path = write_gguf(family, gguf_keys(family, **keys), stored)

    checkpoint = open_checkpoint(path)
    model = theirs(path)

    assert_same_tensors(checkpoint, model)
    config = checkpoint.config
    assert config.head_dim == getattr(model.config, "head_dim", 8)
    assert config.attention_bias is (family == "qwen2")
    assert config.qk_norm is (family in ("qwen3", "gemma3"))
    assert config.tie_word_embeddings is (family == "gemma3")


def test_gemma_windows_and_ropes(
    write_gguf: Callable[..., Path], gguf_keys: Callable[..., dict[str, Any]]
) -> None:
    keys, tensors = family_model("gemma3")
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    path = write_gguf("gemma3", gguf_keys("gemma3", **keys, **scaling), tensors)

    config = open_checkpoint(path).config

    assert config.windows == (24, 24, 24, 24, 24, None, 24)
    assert config.rope_kinds == ("local",) * 5 + ("global", "local")
    assert (config.rope(5).theta, config.rope(5).kind, config.rope(5).factor) == (
        1e6,
        "linear",
        8.0,
    )
    assert (config.rope(0).theta, config.rope(0).kind) == (1e4, "default")
    assert config.embedding_scale == 32**0.5
    assert config.attention_scale == 16**-0.5


def test_gemma_window_pattern_may_be_a_flag_per_layer(
    write_gguf: Callable[..., Path], gguf_keys: Callable[..., dict[str, Any]]
) -> None:
    keys, tensors = family_model("gemma3")
    pattern = [True, False, True, True, False, True, True]
    keys = {**keys, "attention.sliding_window_pattern": pattern}
    config = open_checkpoint(write_gguf("gemma3", gguf_keys("gemma3", **keys), tensors)).config
    assert config.windows == tuple(24 if windowed else None for windowed in pattern)


def test_llama_3_frequencies_equal_those_of_transformers(
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    scaled = LlamaConfig(
        hidden_size=32,
        num_attention_heads=4,
        max_position_embeddings=128,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, "cpu")
    base = 10000.0 ** -(np.arange(0, 8, 2) / 8)
    gguf_tensors["rope_freqs.weight"] = (base / expected.numpy()).astype(np.float32)
    path = write_gguf("llama", gguf_keys(), gguf_tensors)

    checkpoint = open_checkpoint(path)

    rope = checkpoint.config.rope(0)
    assert (rope.kind, rope.attention_factor) == ("longrope", 1.0)
    for factors in (rope.short_factor, rope.long_factor):
        np.testing.assert_allclose(base / np.array(factors), expected.numpy(), rtol=1e-6)
    assert "rope_freqs.weight" not in checkpoint.tensors


def test_rows_of_stored_blocks_are_in_hugging_faces_order(
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    stored = quantised(gguf_tensors["blk.0.attn_q.weight"], GGMLQuantizationType.Q4_0)
    path = write_gguf("llama", gguf_keys(), {**gguf_tensors, "blk.0.attn_q.weight": stored})
    checkpoint = open_checkpoint(path)
    name = "model.layers.0.self_attn.q_proj.weight"

    assert checkpoint.gguf is not None
    rows = checkpoint.gguf.read_rows(name)

    assert checkpoint.tensors[name].dtype == "Q4_0"
    assert rows.shape == (32, 18)
    values = quants.dequantize(rows, GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(values, checkpoint.read(name).array)
    # A head of 8 rows is stored as 0 4 1 5 2 6 3 7.
    np.testing.assert_array_equal(rows[:8], stored[0][[0, 2, 4, 6, 1, 3, 5, 7]])


def test_part_of_a_head_may_turn(
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    # 44 * (30 / 44) is below 30 in floating point.
    keys = gguf_keys(**{"attention.key_length": 44, "rope.dimension_count": 30})
    config = open_checkpoint(write_gguf("llama", keys, gguf_tensors)).config
    assert config.rope(0).rotary_dim == 30


def test_tensor_that_is_no_whole_heads_is_refused(
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    gguf_tensors["blk.0.attn_q.weight"] = np.zeros((12, 32), np.float32)
    checkpoint = open_checkpoint(write_gguf("llama", gguf_keys(), gguf_tensors))
    with pytest.raises(CheckpointError, match="q_proj"):
        checkpoint.read("model.layers.0.self_attn.q_proj.weight")


def test_token_ids_that_end_a_reply(
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    ids = {"bos": 1, "eos": 2, "eot": 9, "eom": 11, "padding": 3}
    keys = {**gguf_keys(), **{f"tokenizer.ggml.{n}_token_id": i for n, i in ids.items()}}
    config = open_checkpoint(write_gguf("llama", keys, gguf_tensors)).config
    assert config.eos_token_ids == (2, 9, 11)
    assert (config.bos_token_id, config.pad_token_id) == (1, 3)


def test_window_makes_a_mistral(
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    keys = gguf_keys(**{"attention.sliding_window": 16})
    config = open_checkpoint(write_gguf("llama", keys, gguf_tensors)).config
    assert (config.architecture, config.windows) == ("MistralForCausalLM", (16, 16))


def test_parts_are_joined(
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    names = list(gguf_tensors)
    split = {"split.count": 2}
    halves = [{n: gguf_tensors[n] for n in part} for part in (names[:9], names[9:])]
    write_gguf("llama", {**gguf_keys(), **split}, halves[0], "m-00001-of-00002.gguf")
    second = write_gguf("llama", split, halves[1], "m-00002-of-00002.gguf")
    whole = write_gguf("llama", gguf_keys(), gguf_tensors, "whole.gguf")
    expected = dict(open_checkpoint(whole).iter_tensors())
    whole.unlink()

    joined = dict(open_checkpoint(tmp_path).iter_tensors())

    assert joined.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(joined[name].array, tensor.array)
    with pytest.raises(CheckpointError, match="pass the first"):
        open_checkpoint(second)
    second.unlink()
    with pytest.raises(CheckpointError, match=r"part m-00002-of-00002\.gguf .* missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"expert_count": 8}, CheckpointError, "expert_used_count"),
        ({"block_count": 2, "nextn_predict_layers": 2}, CheckpointError, "nextn_predict_layers"),
        ({"attention.head_count": 0}, CheckpointError, r"attention\.head_count"),
        ({"attention.value_length": 4}, CheckpointError, r"attention\.value_length"),
        ({"attention.head_count_kv": 3}, CheckpointError, "num_key_value_heads"),
        ({"rope.dimension_count": 64}, CheckpointError, r"rope\.dimension_count"),
        ({"rope.scaling.type": "odd"}, UnsupportedModel, "odd"),
        ({"embedding_length": "32"}, CheckpointError, "embedding_length"),
        ({"block_count": [1, 2]}, CheckpointError, "block_count"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nonsense_is_refused_by_name(
    change: dict[str, Any],
    error: type[CheckpointError],
    message: str,
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    with pytest.raises(error, match=message):
        open_checkpoint(write_gguf("llama", gguf_keys(**change), gguf_tensors))


@pytest.mark.parametrize(
    "name", ["blk.0.attn_mystery.weight", "blk.x.attn_q.weight", "mystery", "output.scale"]
)
def test_tensor_without_a_place_is_refused(
    name: str,
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    gguf_tensors[name] = np.zeros(4, np.float32)
    with pytest.raises(UnsupportedModel, match=name):
        open_checkpoint(write_gguf("llama", gguf_keys(), gguf_tensors))


def test_unknown_architecture_is_unsupported(
    write_gguf: Callable[..., Path], gguf_tensors: dict[str, np.ndarray]
) -> None:
    with pytest.raises(UnsupportedModel, match=r"'mamba'.*llama"):
        open_checkpoint(write_gguf("mamba", {}, gguf_tensors))


@pytest.mark.parametrize(
    ("store", "dtype"),
    [
        (lambda a: a.astype(np.float16), "float16"),
        (lambda a: quantised(a, GGMLQuantizationType.BF16), "bfloat16"),
        (lambda a: quantised(a, GGMLQuantizationType.Q8_0), "float32"),
    ],
    ids=["f16", "bf16", "q8_0"],
)
def test_dtype_is_that_of_most_weights(
    store: Callable[[np.ndarray], Any],
    dtype: str,
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    stored = {n: store(a) if a.ndim == 2 else a for n, a in gguf_tensors.items()}
    checkpoint = open_checkpoint(write_gguf("llama", gguf_keys(), stored))
    assert checkpoint.config.dtype == dtype
    assert checkpoint.read("model.embed_tokens.weight").dtype == dtype


def test_demo_model(demo_gguf: Path, demo_reader: gguf.GGUFReader) -> None:
    """Its published shape, and one tensor of each stored type against the reference reader."""
    checkpoint = open_checkpoint(demo_gguf)
    config = checkpoint.config
    shape = (config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads)
    assert shape == (30, 576, 9, 3)
    assert (config.vocab_size, config.eos_token_ids, config.tie_word_embeddings) == (
        49152,
        (2,),
        True,
    )
    assert config.rope(0).theta == 100000.0
    assert checkpoint.tokenizer_path == demo_gguf
    reader = {t.name: t for t in demo_reader.tensors}
    for hf_name, name in (
        ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
        ("model.layers.3.input_layernorm.weight", "blk.3.attn_norm.weight"),
    ):
        expected = quants.dequantize(reader[name].data, reader[name].tensor_type)
        np.testing.assert_array_equal(checkpoint.read(hf_name).array, expected)
