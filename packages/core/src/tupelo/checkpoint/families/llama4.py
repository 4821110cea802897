"""Llama 4, the text of it: chunked layers that turn, full ones that know no positions, experts.

A turned query or key is normed to length; queries of full layers grow with the logarithm of their
position. One expert in many is weighed on its input, beside a shared one.

Source: Meta, "The Llama 4 herd", 2025; Nakanishi, "Scalable-Softmax Is Superior for Attention",
    2025 (queries that grow).
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.experts import ExpertConfig
from tupelo.checkpoint.families.family import COMMON, Family, with_vision
from tupelo.checkpoint.families.llama import IDS
from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.layout import LLAMA
from tupelo.checkpoint.rope import QueryGrowth, no_rope
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = replace(
    LLAMA,
    gate="feed_forward.gate_proj",
    up="feed_forward.up_proj",
    down="feed_forward.down_proj",
    router="feed_forward.router",
    experts="feed_forward.experts",
    stacked_router="feed_forward.router",
    stacked_experts="feed_forward.experts",
    shared="feed_forward.shared_expert",
)


def _llama4(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    interval = fields.integer("no_rope_layer_interval")
    turned = _flags(fields, base.num_layers) or [
        (layer + 1) % interval != 0 for layer in range(base.num_layers)
    ]
    if base.ropes["global"].attention_factor != 1.0:
        raise UnsupportedModel(f"{fields.where}: a rope that scales is not supported with norms")
    chunk = fields.optional_integer("attention_chunk_size")
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "qk_unit_norm": fields.flag("use_qk_norm", True),
        "windows": tuple(chunk if c else None for c in _chunked(fields, turned)),
        "chunked": True,
        "query_growth": _growth(fields),
        "ropes": {**base.ropes, "none": no_rope(base.head_dim, base.max_position_embeddings)},
        "rope_kinds": tuple("global" if turns else "none" for turns in turned),
        "rope_interleaved": True,
        "intermediate_size": fields.integer("intermediate_size_mlp"),
        "layout": _LAYOUT,
        "experts": _experts(fields, base),
    }


def _flags(fields: Fields, num_layers: int) -> list[bool]:
    """``no_rope_layers``, which has a 1 for each layer that does turn; empty where it says
    nothing."""
    values = fields.values.get("no_rope_layers") or []
    if values and (not isinstance(values, list | tuple) or len(values) != num_layers):
        raise fields.error("no_rope_layers", f"a list of {num_layers} entries, one per layer")
    return [bool(value) for value in values]


def _chunked(fields: Fields, turned: list[bool]) -> list[bool]:
    """Which layers see their chunk alone: by ``layer_types``, else those that turn."""
    types = fields.texts("layer_types")
    if not types:
        return turned
    if len(types) != len(turned):
        raise fields.error("layer_types", f"a list of {len(turned)} entries, one per layer")
    for name in types:
        if name not in ("full_attention", "chunked_attention"):
            raise UnsupportedModel(
                f"{fields.where}: layer type {shown(repr(name))} is not supported; "
                "supported: full_attention, chunked_attention"
            )
    return [name == "chunked_attention" for name in types]


def _growth(fields: Fields) -> QueryGrowth | None:
    """``attn_temperature_tuning`` is a number in some published files."""
    if not fields.values.get("attn_temperature_tuning"):
        return None
    return QueryGrowth(
        step=fields.integer("floor_scale"), scale=fields.number("attn_scale", low=0.0)
    )


def _experts(fields: Fields, base: "ModelConfig") -> ExpertConfig:
    step = fields.integer("interleave_moe_layer_step")
    listed = fields.values.get("moe_layers")
    if listed is None:
        listed = range(step - 1, base.num_layers, step)
    elif not isinstance(listed, list | tuple):
        raise fields.error("moe_layers", "a list of layers")
    size = fields.integer("intermediate_size")
    return ExpertConfig(
        layers=tuple(layer in listed for layer in range(base.num_layers)),
        num_experts=fields.integer("num_local_experts", high=4096),
        top_k=fields.integer("num_experts_per_tok"),
        intermediate_size=size,
        renormalize=False,
        scoring="sigmoid",
        weigh_input=True,
        columns="halves",
        shared_size=size,
    )


_DEFAULTS: Final = {
    **COMMON,
    **IDS,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "rope_theta": 500_000.0,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
}

_MAVERICK_EXPERTS = 128


def _gguf(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """Files are silent on much that Scout and Maverick have alike, and on Maverick having no norms
    of queries and keys."""
    experts = fields.integer("expert_count")
    return {
        "num_local_experts": experts,
        "num_experts_per_tok": fields.integer("expert_used_count"),
        "intermediate_size": fields.integer("expert_feed_forward_length"),
        "intermediate_size_mlp": fields.integer("feed_forward_length"),
        "interleave_moe_layer_step": fields.integer("interleave_moe_layer_step"),
        "attention_chunk_size": fields.integer("attention.sliding_window", 8192, low=0) or None,
        "use_qk_norm": experts != _MAVERICK_EXPERTS,
        "floor_scale": fields.integer("attention.temperature_length", 8192),
        "attn_scale": fields.positive("attention.temperature_scale", 0.1),
    }


LLAMA4: Final = Family(
    model_type="llama4_text",
    defaults=_DEFAULTS,
    refine=_llama4,
    gguf=GGUFForm(architecture="llama4", config=_gguf),
)
LLAMA4_WITH_VISION: Final = with_vision(LLAMA4, "llama4")
