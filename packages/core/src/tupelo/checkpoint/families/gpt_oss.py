"""GPT-OSS: sinks, every other layer windowed, experts with biases and a clamped gate, in MXFP4.

Source: OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", 2025.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.experts import ExpertConfig
from tupelo.checkpoint.families.family import Family, layer_windows
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.layout import LLAMA
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = replace(LLAMA, router="mlp.router", stacked_router="mlp.router")
_CLAMP: Final = {"swiglu_limit": 7.0, "swiglu_alpha": 1.702}


def _gpt_oss(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    for name, known in _CLAMP.items():
        if fields.number(name, known) != known:
            raise UnsupportedModel(f"{fields.where}: {name} other than {known} is not supported")
    windowed = layer_windows(fields, base.num_layers, lambda layer: layer % 2 == 0)
    window = fields.integer("sliding_window")
    bias = fields.flag("attention_bias", True)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "windows": tuple(window if w else None for w in windowed),
        "sinks": True,
        "layout": _LAYOUT,
        "experts": ExpertConfig(
            layers=(True,) * base.num_layers,
            num_experts=fields.integer("num_local_experts", high=4096),
            top_k=fields.integer("num_experts_per_tok"),
            intermediate_size=base.intermediate_size,
            activation="swiglu_clamped",
            biased=True,
            columns="turns",
        ),
    }


def _gguf(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    return {
        "num_local_experts": fields.integer("expert_count"),
        "num_experts_per_tok": fields.integer("expert_used_count"),
        "intermediate_size": fields.integer("expert_feed_forward_length"),
        "sliding_window": fields.integer("attention.sliding_window"),
    }


GPT_OSS: Final = Family(
    model_type="gpt_oss",
    gguf=GGUFForm(architecture="gpt-oss", config=_gguf, rope_scaling={"truncate": False}),
    quantised=("mxfp4",),
    defaults={
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "sliding_window": 128,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "rope_theta": 150_000.0,
    },
    refine=_gpt_oss,
)
