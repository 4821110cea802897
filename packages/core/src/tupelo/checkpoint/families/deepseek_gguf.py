"""DeepSeek's kin in GGUF files, and GLM-4-MoE, whose experts are chosen as theirs.

Source: llama.cpp's converter, and the keys of the ``gguf`` package.
"""

from typing import Any, Final

from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.gguf_names import value_dim

_SIGMOID = 2  # of ``expert_gating_func``
_V3_EXPERTS, _V3_GROUPS = 256, (8, 4)  # older files of V3 and R1 leave the groups out


def _experts(fields: Fields) -> dict[str, Any]:
    return {
        "n_routed_experts": fields.integer("expert_count"),
        "num_experts_per_tok": fields.integer("expert_used_count"),
        "moe_intermediate_size": fields.integer("expert_feed_forward_length"),
        "n_shared_experts": fields.integer("expert_shared_count", 0, low=0),
        "routed_scaling_factor": fields.positive("expert_weights_scale", 1.0),
        "norm_topk_prob": fields.flag("expert_weights_norm", False),
        "n_group": fields.integer("expert_group_count", 1),
        "topk_group": fields.integer("expert_group_used_count", 1),
    }


def _glm4_moe(header: GGUFHeader, fields: Fields) -> dict[str, Any]:
    normed = "blk.0.attn_q_norm.weight" in header.tensors
    return {**_experts(fields), "use_qk_norm": normed}


def _latent(header: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """Newer files call the head's own width ``key_length_mla``, and ``key_length`` what is
    stored of a token."""
    mla = "attention.key_length_mla"
    width = fields.integer(mla if mla in fields else "attention.key_length")
    turned = fields.integer("rope.dimension_count", high=width - 1)
    return {
        "q_lora_rank": fields.optional_integer("attention.q_lora_rank"),
        "kv_lora_rank": fields.integer("attention.kv_lora_rank"),
        "qk_nope_head_dim": width - turned,
        "qk_rope_head_dim": turned,
        "v_head_dim": value_dim(
            fields.integer("attention.head_count"), header.tensors, fields.where
        ),
    }


def _deepseek(header: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """V2 has softmax scores, V3 and Kimi K2 sigmoid ones."""
    config = {**_latent(header, fields), **_experts(fields)}
    if fields.integer("expert_gating_func", 1) == _SIGMOID:
        if config["n_routed_experts"] == _V3_EXPERTS and "expert_group_count" not in fields:
            config["n_group"], config["topk_group"] = _V3_GROUPS
        return {**config, "architectures": ["DeepseekV3ForCausalLM"]}
    grouped = config["n_group"] > 1
    return {
        **config,
        "architectures": ["DeepseekV2ForCausalLM"],
        "topk_method": "group_limited_greedy" if grouped else "greedy",
    }


DEEPSEEK_GGUF: Final = GGUFForm(architecture="deepseek2", config=_deepseek, latent=True)
MINICPM3_GGUF: Final = GGUFForm(architecture="minicpm3", config=_latent, latent=True)
GLM4_MOE_GGUF: Final = GGUFForm(architecture="glm4moe", config=_glm4_moe)
