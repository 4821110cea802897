"""DeepSeek-V2, V3 and R1, Kimi K2, MiniCPM3: latent attention; all but the last with experts.

Kimi K2 is published as a DeepSeek-V3 with a configuration of its own type.

Source: DeepSeek-AI, "DeepSeek-V2" and "DeepSeek-V3 Technical Report", 2024; Hu et al., "MiniCPM",
    2024.
"""

import math
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.experts import ExpertConfig, expert_layers
from tupelo.checkpoint.families.deepseek_gguf import DEEPSEEK_GGUF, MINICPM3_GGUF
from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.families.glm4_moe import sigmoid_experts
from tupelo.checkpoint.families.llama import IDS
from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.latent import parse_latent
from tupelo.checkpoint.rope import parse_rope, yarn_scale
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


def _latent(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    latent = parse_latent(fields)
    section = "rope_parameters" if "rope_parameters" in fields else "rope_scaling"
    scaling = fields.section(section)
    rope = parse_rope(
        fields,
        scaling,
        head_dim=latent.rope_dim,
        max_positions=base.max_position_embeddings,
        theta=fields.positive("rope_theta", 10000.0),
    )
    stretched = yarn_scale(rope.factor, scaling.number("mscale_all_dim", 0.0))
    scale: float = (latent.nope_dim + latent.rope_dim) ** -0.5
    return {
        "attention_bias": fields.flag("attention_bias", False),
        "latent": latent,
        "num_kv_heads": 1,
        "head_dim": latent.kv_rank + latent.rope_dim,
        "attention_scale": scale * stretched**2 if rope.kind == "yarn" else scale,
        "ropes": {"global": rope},
    }


def _deepseek_v2(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {**_latent(fields, base), "rope_interleaved": True, "experts": _v2_experts(fields, base)}


def _v2_experts(fields: Fields, base: "ModelConfig") -> ExpertConfig:
    method = fields.text("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModel(
            f"{fields.where}: topk_method {shown(repr(method))} is not supported; "
            "supported: greedy, group_limited_greedy"
        )
    grouped = method == "group_limited_greedy"
    first, size = fields.integer("first_k_dense_replace", 0, low=0), "moe_intermediate_size"
    return ExpertConfig(
        layers=expert_layers(base.num_layers, lambda layer: layer >= first),
        num_experts=fields.integer("n_routed_experts", high=4096),
        top_k=fields.integer("num_experts_per_tok"),
        intermediate_size=fields.integer(size),
        renormalize=False,  # the published code and transformers read norm_topk_prob and drop it
        num_groups=fields.integer("n_group") if grouped else 1,
        top_groups=fields.integer("topk_group") if grouped else 1,
        scale=fields.positive("routed_scaling_factor", 1.0),
        wide_router=True,
        shared_size=fields.integer(size) * fields.integer("n_shared_experts", 0, low=0),
    )


def _deepseek_v3(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {
        **_latent(fields, base),
        "rope_interleaved": fields.flag("rope_interleave", True),
        "experts": sigmoid_experts(fields, base),
    }


def _minicpm3(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    depth = fields.positive("scale_depth", 1.4)
    return {
        **_latent(fields, base),
        "embedding_scale": fields.positive("scale_emb", 12.0),
        "residual_scale": depth / math.sqrt(base.num_layers),
        "logits_scale": fields.positive("dim_model_base", 256.0) / base.hidden_size,
    }


_LATENT: Final = {
    **COMMON,
    "max_position_embeddings": 4096,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}

DEEPSEEK_V2: Final = Family(
    model_type="deepseek_v2",
    gguf=DEEPSEEK_GGUF,
    nested_ropes=True,
    defaults={
        **_LATENT,
        **IDS,
        "max_position_embeddings": 2048,
        "moe_intermediate_size": 1407,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
    },
    refine=_deepseek_v2,
)
DEEPSEEK_V3: Final = Family(
    model_type="deepseek_v3",
    gguf=DEEPSEEK_GGUF,
    nested_ropes=True,
    defaults={
        **_LATENT,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "first_k_dense_replace": 3,
        "routed_scaling_factor": 2.5,
    },
    refine=_deepseek_v3,
)
MINICPM3: Final = Family(
    model_type="minicpm3",
    gguf=MINICPM3_GGUF,
    nested_ropes=True,
    defaults={
        **_LATENT,
        **IDS,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
        "kv_lora_rank": 256,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        "tie_word_embeddings": True,
    },
    refine=_minicpm3,
)
