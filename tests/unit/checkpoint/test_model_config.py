"""``parse_hf_config`` against transformers' own reading of the same configuration."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tupelo.checkpoint import ModelConfig, QueryGrowth, RopeConfig, parse_hf_config
from tupelo.errors import CheckpointError, UnsupportedModel

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}

SAVED_BY_TRANSFORMERS_5: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama-no-gqa": LlamaConfig(**{**SIZES, "num_key_value_heads": None}),
    "llama-3": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE, eos_token_id=[5, 6, 7]),
    "llama-biased": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, head_dim=24),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True, dtype="bfloat16"),
    "llama-linear": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    ),
    "llama-dynamic": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "llama-yarn": LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 16.0,
        },
    ),
    "llama-longrope": LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [float(i + 1) for i in range(8)],
            "original_max_position_embeddings": 128,
        },
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=64),
    "mistral-full": MistralConfig(**SIZES, sliding_window=None, head_dim=32),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2-windows": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=32, max_window_layers=2
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
    "qwen3-windows": Qwen3Config(
        **SIZES,
        use_sliding_window=True,
        sliding_window=32,
        layer_types=["full_attention", "sliding_attention"] * 3,
    ),
    "gemma3": Gemma3TextConfig(**SIZES, head_dim=32, sliding_window=32, query_pre_attn_scalar=24),
    "gemma3-ropes": Gemma3TextConfig(
        **SIZES, head_dim=32, rope_parameters=GEMMA_ROPES, final_logit_softcapping=30.0
    ),
}

# As published by their authors, with the sizes cut down.
SPELT_FOR_TRANSFORMERS_4: dict[str, dict[str, Any]] = {
    "llama-2": {"model_type": "llama", "rope_scaling": None, "pad_token_id": 0, **SIZES},
    "llama-3.1": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": {k: v for k, v in LLAMA3_ROPE.items() if k != "rope_theta"},
        "torch_dtype": "bfloat16",
        "eos_token_id": [10, 11],
        **SIZES,
    },
    "llama-linear": {
        "model_type": "llama",
        "rope_scaling": {"type": "linear", "factor": 4.0},
        **SIZES,
    },
    "mistral-0.1": {"model_type": "mistral", "sliding_window": 128, "rope_theta": 10000.0, **SIZES},
    "qwen2.5-yarn": {
        "model_type": "qwen2",
        "use_sliding_window": False,
        "sliding_window": 128,
        "max_window_layers": 6,
        "rope_theta": 1000000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        **SIZES,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "rope_theta": 1000000, **SIZES},
    "gemma-3": {
        "model_type": "gemma3_text",
        "head_dim": 32,
        "rope_theta": 1000000,
        "rope_local_base_freq": 10000,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 64,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        **SIZES,
    },
}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def assert_rope_equal(ours: RopeConfig, config: PretrainedConfig, layer_type: str | None) -> None:
    params = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    assert ours.kind == params["rope_type"]
    assert ours.theta == params["rope_theta"]
    if ours.kind == "default":
        assert (ours.factor, ours.attention_factor) == (1.0, 1.0)
        return
    kwargs = {"layer_type": layer_type} if layer_type else {}
    inv_freq, attention_factor = ROPE_INIT_FUNCTIONS[ours.kind](config, "cpu", **kwargs)
    assert 2 * len(inv_freq) == ours.rotary_dim
    assert math.isclose(ours.attention_factor, attention_factor, rel_tol=1e-12)
    for name in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast"):
        if params.get(name) is not None:
            assert getattr(ours, name) == params[name]
    if ours.kind in ("llama3", "yarn", "longrope"):
        original = params["original_max_position_embeddings"]
        assert ours.original_max_position_embeddings == original
    assert list(ours.long_factor) == params.get("long_factor", [])


def assert_equal(ours: ModelConfig, theirs: PretrainedConfig) -> None:
    """Every field that transformers has too."""
    gemma = theirs.model_type == "gemma3_text"
    assert ours.model_type == theirs.model_type
    assert ours.num_layers == theirs.num_hidden_layers
    assert ours.num_heads == theirs.num_attention_heads
    assert ours.num_kv_heads == theirs.num_key_value_heads
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "rms_norm_eps",
        "max_position_embeddings",
        "tie_word_embeddings",
        "bos_token_id",
        "pad_token_id",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert ours.head_dim == head_dim
    assert ours.hidden_act == (theirs.hidden_activation if gemma else theirs.hidden_act)
    eos = theirs.eos_token_id
    assert list(ours.eos_token_ids) == (
        eos if isinstance(eos, list) else [] if eos is None else [eos]
    )
    assert ours.dtype == str(theirs.dtype or "float32").removeprefix("torch.")
    qkv_bias = theirs.model_type == "qwen2" or getattr(theirs, "attention_bias", False)
    assert ours.attention_bias is qkv_bias
    assert ours.attention_output_bias is getattr(theirs, "attention_bias", False)
    assert ours.mlp_bias is getattr(theirs, "mlp_bias", False)
    assert ours.qk_norm is (theirs.model_type in ("qwen3", "gemma3_text"))
    layer_types = getattr(theirs, "layer_types", None)
    everywhere = getattr(theirs, "sliding_window", None)
    if layer_types is None:
        assert ours.windows == (everywhere,) * ours.num_layers
    else:
        sliding = [t == "sliding_attention" for t in layer_types]
        assert ours.windows == tuple(everywhere if s else None for s in sliding)
    scalar = theirs.query_pre_attn_scalar if gemma else head_dim
    assert math.isclose(ours.attention_scale, scalar**-0.5)
    assert ours.attention_soft_cap == getattr(theirs, "attn_logit_softcapping", None)
    assert ours.final_soft_cap == getattr(theirs, "final_logit_softcapping", None)
    assert ours.embedding_scale == (theirs.hidden_size**0.5 if gemma else 1.0)
    for layer in range(ours.num_layers):
        assert_rope_equal(ours.rope(layer), theirs, layer_types[layer] if gemma else None)


@pytest.mark.parametrize("name", SAVED_BY_TRANSFORMERS_5)
def test_configuration_saved_by_transformers_5(name: str, tmp_path: Path) -> None:
    theirs = SAVED_BY_TRANSFORMERS_5[name]
    theirs.architectures = [ARCHITECTURES[theirs.model_type]]
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())

    ours = parse_hf_config(saved)

    assert ours.architecture == theirs.architectures[0]
    assert_equal(ours, theirs)


@pytest.mark.parametrize("name", SPELT_FOR_TRANSFORMERS_4)
def test_configuration_in_the_spelling_of_transformers_4(name: str) -> None:
    config = SPELT_FOR_TRANSFORMERS_4[name]
    theirs = AutoConfig.for_model(**json.loads(json.dumps(config)))
    assert_equal(parse_hf_config(config), theirs)


def test_llama_4_as_published() -> None:
    """Scout's text: its lists empty, a number for a switch, a rope without a middle."""
    rope = {k: v for k, v in LLAMA3_ROPE.items() if k != "rope_theta"}
    text = {
        "model_type": "llama4_text",
        "attention_chunk_size": 32,
        "attn_scale": 0.1,
        "attn_temperature_tuning": 4,
        "floor_scale": 8192,
        "for_llm_compressor": False,
        "head_dim": 16,
        "intermediate_size_mlp": 200,
        "interleave_moe_layer_step": 2,
        "no_rope_layers": [],
        "num_experts_per_tok": 1,
        "num_local_experts": 16,
        "eos_token_id": [5, 6],
        "rope_theta": 500000.0,
        "rope_scaling": {**rope, "high_freq_factor": 1.0},
        "torch_dtype": "bfloat16",
        "use_qk_norm": True,
        **SIZES,
    }
    published = {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "text_config": text,
        "vision_config": {"model_type": "llama4_vision_model"},
    }
    # transformers wants a bool, which newer files have.
    theirs = AutoConfig.for_model(**{**text, "attn_temperature_tuning": True})
    ours = parse_hf_config(published)
    assert ours.windows == (32, 32, 32, None, 32, 32)
    assert [ours.rope(layer).kind != "none" for layer in range(6)] == [
        bool(turned) for turned in theirs.no_rope_layers
    ]
    assert_rope_equal(ours.rope(0), theirs, None)
    assert ours.query_growth == QueryGrowth(step=8192, scale=0.1)
    assert (ours.chunked, ours.qk_unit_norm, ours.intermediate_size) == (True, True, 200)
    assert ours.experts is not None
    assert ours.experts.layers == tuple(layer in theirs.moe_layers for layer in range(6))
    assert (ours.experts.intermediate_size, ours.experts.shared_size) == (112, 112)
    assert (ours.dtype, ours.eos_token_ids) == ("bfloat16", (5, 6))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"layer_types": ["sliding_attention"] * 6}, UnsupportedModel, "sliding_attention"),
        ({"layer_types": ["full_attention"]}, CheckpointError, "layer_types"),
        ({"no_rope_layers": [1, 0]}, CheckpointError, "no_rope_layers"),
        ({"moe_layers": 3}, CheckpointError, "moe_layers"),
        ({"is_causal": False}, CheckpointError, "is_causal"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            UnsupportedModel,
            "scales is not supported",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_llama_4_refuses_what_it_does_not_have(
    change: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        parse_hf_config({"architectures": ["Llama4ForCausalLM"], **SIZES, **change})


def test_only_full_layers_of_olmo3_stretch_their_rope() -> None:
    """In either spelling."""
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
    published = {
        "architectures": ["Olmo3ForCausalLM"],
        "model_type": "olmo3",
        "rope_theta": 500000,
        "rope_scaling": {**yarn, "attention_factor": 1.2079441541679836},
        "sliding_window": 32,
        **SIZES,
    }
    theirs = AutoConfig.for_model(**json.loads(json.dumps(published)))
    ours = parse_hf_config(published)
    assert ours.windows == (32, 32, 32, None, 32, 32)
    for layer, kind in enumerate(theirs.layer_types):
        assert_rope_equal(ours.rope(layer), theirs, kind)
    assert parse_hf_config({**theirs.to_dict(), **SIZES}) == ours


def test_model_type_stands_in_for_a_missing_architecture(llama_config: dict[str, Any]) -> None:
    config = {**llama_config, "architectures": None}
    assert parse_hf_config(config).architecture == "LlamaForCausalLM"


def test_null_overrides_a_default(llama_config: dict[str, Any]) -> None:
    config = {**llama_config, "architectures": ["MistralForCausalLM"], "num_key_value_heads": None}
    assert parse_hf_config(config).windows == (4096, 4096)
    config["sliding_window"] = None
    assert parse_hf_config(config).windows == (None, None)
    assert parse_hf_config(config).num_kv_heads == 4


def test_unknown_architecture_names_the_nearest_and_all(llama_config: dict[str, Any]) -> None:
    config = {**llama_config, "architectures": ["Qwen33ForCausalLM"]}
    with pytest.raises(
        UnsupportedModel, match=r"nearest supported one is Qwen3ForCausalLM"
    ) as error:
        parse_hf_config(config)
    assert all(name in str(error.value) for name in ARCHITECTURES.values())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 5}, "hidden_size"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"vocab_size": 10**400}, "vocab_size"),
        ({"head_dim": 7}, "head_dim"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_scaling": []}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": float("inf")}}, "factor"),
        ({"rope_scaling": {"type": 3}}, "type"),
        ({"rope_scaling": {**LLAMA3_ROPE, "high_freq_factor": 0.5}}, "high_freq_factor"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1]}},
            "short_factor",
        ),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "yarn", "rope_theta": 1}}, "rope_theta"),
        (
            {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 1}},
            "original_max_position_embeddings",
        ),
        (
            {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}},
            "partial_rotary_factor",
        ),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"torch_dtype": "float8"}, "torch_dtype"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"architectures": None, "model_type": None}, "architectures"),
        ({"hidden_act": ["silu"]}, "hidden_act"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nonsense_is_refused_by_name(
    change: dict[str, Any], named: str, llama_config: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=named) as error:
        parse_hf_config({**llama_config, **change})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {"rope_type": "mrope"}},
        {"quantization_config": {"quant_method": "awq"}},
    ],
    ids=["rope", "quantised"],
)
def test_what_is_not_implemented_is_unsupported(
    change: dict[str, Any], llama_config: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedModel, match="supported"):
        parse_hf_config({**llama_config, **change})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"layer_types": ["full_attention"]}, CheckpointError),
        ({"layer_types": ["linear_attention"] * 6}, UnsupportedModel),
        ({"sliding_window_pattern": 0}, CheckpointError),
    ],
    ids=["short", "linear", "pattern"],
)
def test_gemma_refuses_layers_it_does_not_have(
    change: dict[str, Any], error: type[CheckpointError]
) -> None:
    with pytest.raises(error):
        parse_hf_config({**SPELT_FOR_TRANSFORMERS_4["gemma-3"], **change})


def test_gemma_that_looks_both_ways_embeds() -> None:
    config = parse_hf_config(
        {**SPELT_FOR_TRANSFORMERS_4["gemma-3"], "use_bidirectional_attention": True}
    )
    assert config.bidirectional
    assert config.pooling is not None
    span = SPELT_FOR_TRANSFORMERS_4["gemma-3"]["sliding_window"]
    assert set(config.windows) == {None, span // 2 + 1}
