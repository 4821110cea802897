"""GLM-4.5 and 4.6: experts chosen by corrected sigmoid scores, half of a head rotated.

Source: GLM-4.5 Team, "GLM-4.5: Agentic, Reasoning, and Coding Foundation Models", 2025.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.experts import ExpertConfig, expert_layers
from tupelo.checkpoint.families.deepseek_gguf import GLM4_MOE_GGUF
from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.fields import Fields

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


def sigmoid_experts(fields: Fields, base: "ModelConfig") -> ExpertConfig:
    """DeepSeek-V3's choice, whose fields others took over: the best groups by their two best
    experts, scores corrected by a bias."""
    first = fields.integer("first_k_dense_replace", 0, low=0)
    step = fields.integer("moe_layer_freq", 1)
    size = fields.integer("moe_intermediate_size")
    groups = fields.integer("n_group", 1)
    return ExpertConfig(
        layers=expert_layers(base.num_layers, lambda at: at >= first and at % step == 0),
        num_experts=fields.integer("n_routed_experts", high=4096),
        top_k=fields.integer("num_experts_per_tok"),
        intermediate_size=size,
        renormalize=fields.flag("norm_topk_prob", True),
        scoring="sigmoid",
        num_groups=groups,
        top_groups=fields.integer("topk_group", 1),
        group_top=2 if groups > 1 else 1,
        scale=fields.positive("routed_scaling_factor", 1.0),
        correction=True,
        wide_router=True,
        shared_size=size * fields.integer("n_shared_experts", 0, low=0),
    )


def _glm4_moe(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {
        "attention_bias": fields.flag("attention_bias", False),
        "qk_norm": fields.flag("use_qk_norm", False),
        "experts": sigmoid_experts(fields, base),
    }


GLM4_MOE: Final = Family(
    model_type="glm4_moe",
    gguf=GLM4_MOE_GGUF,
    defaults={
        **COMMON,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "partial_rotary_factor": 0.5,
        "moe_intermediate_size": 1408,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "n_routed_experts": 128,
        "first_k_dense_replace": 1,
    },
    refine=_glm4_moe,
)
