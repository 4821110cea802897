"""Qwen2-MoE (Qwen1.5-MoE, Qwen2-57B) and Qwen3-MoE: their dense siblings with experts.

Source: Yang et al., "Qwen2 Technical Report", 2024; "Qwen3 Technical Report", 2025.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.experts import ExpertConfig, expert_layers
from tupelo.checkpoint.families.family import Family
from tupelo.checkpoint.families.qwen import DEFAULTS, qwen_windows
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.layout import LLAMA

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = replace(LLAMA, shared="mlp.shared_expert")


def _experts(fields: Fields, base: "ModelConfig", *, shared: bool) -> ExpertConfig:
    """Every ``decoder_sparse_step``-th layer has experts, but for those listed as plain."""
    step = fields.integer("decoder_sparse_step")
    # transformers 5 saves Qwen3-MoE's count under Mixtral's name.
    count = "num_local_experts" if "num_local_experts" in fields else "num_experts"
    plain = fields.values.get("mlp_only_layers") or []
    if not isinstance(plain, list | tuple):
        raise fields.error("mlp_only_layers", "a list of layers")
    return ExpertConfig(
        layers=expert_layers(
            base.num_layers, lambda layer: layer not in plain and (layer + 1) % step == 0
        ),
        num_experts=fields.integer(count, high=4096),
        top_k=fields.integer("num_experts_per_tok"),
        intermediate_size=fields.integer("moe_intermediate_size"),
        renormalize=fields.flag("norm_topk_prob", False),
        shared_size=fields.integer("shared_expert_intermediate_size") if shared else 0,
        shared_gated=shared,
    )


def _qwen2_moe(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {
        "attention_bias": fields.flag("qkv_bias", True),
        "windows": qwen_windows(fields, base),
        "layout": _LAYOUT,
        "experts": _experts(fields, base, shared=True),
    }


def _qwen3_moe(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    window = fields.optional_integer("sliding_window")
    windowed = window if fields.flag("use_sliding_window", False) else None
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "qk_norm": True,
        "windows": (windowed,) * base.num_layers,
        "experts": _experts(fields, base, shared=False),
    }


def _gguf(fields: Fields) -> dict[str, Any]:
    return {
        "num_experts": fields.integer("expert_count"),
        "num_experts_per_tok": fields.integer("expert_used_count"),
        "moe_intermediate_size": fields.integer("expert_feed_forward_length"),
    }


def _qwen2_moe_gguf(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    size = fields.integer("expert_shared_feed_forward_length")
    return {**_gguf(fields), "shared_expert_intermediate_size": size}


def _qwen3_moe_gguf(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """Every published one makes the chosen weights sum to 1, and llama.cpp asks no further."""
    return {**_gguf(fields), "norm_topk_prob": True}


QWEN2_MOE: Final = Family(
    model_type="qwen2_moe",
    gguf=GGUFForm(architecture="qwen2moe", config=_qwen2_moe_gguf),
    defaults={
        **DEFAULTS,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
    },
    refine=_qwen2_moe,
)
QWEN3_MOE: Final = Family(
    model_type="qwen3_moe",
    gguf=GGUFForm(architecture="qwen3moe", config=_qwen3_moe_gguf),
    defaults={
        **DEFAULTS,
        "head_dim": 128,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
    refine=_qwen3_moe,
)
