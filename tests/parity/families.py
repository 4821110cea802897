"""Tiny random checkpoints of every family, made with transformers.

Weights are drawn so that activations have the size of a trained model's: with transformers' own
initialisation logits would be near 0, and almost any error within the tolerance.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCAB_SIZE = 256
_TINY: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


@dataclass(frozen=True)
class Family:
    """One checkpoint.

    Attributes:
        id: readable name.
        architecture: transformers' class, and the name in our registry.
        fields: of its configuration, beyond the tiny sizes.
    """

    id: str
    architecture: str
    fields: dict[str, Any]

    lengths: tuple[int, ...] = (70, 1, 19, 33)
    """Prompts: well beyond the window, a single token, one short of the window, over two pages."""

    base: str = ""
    """The class in transformers that computes the same, where it has none of this name."""

    renamed: dict[str, Any] = field(default_factory=dict)
    """What the published configuration then says instead."""

    def reference(self) -> PreTrainedModel:
        """The seeded model in float32."""
        model_class = getattr(transformers, self.base or self.architecture)
        config = model_class.config_class(**{**_TINY, **self.fields})
        config._attn_implementation = "eager"
        model = model_class(config).eval()
        randomise(model)
        return model

    def save(self, folder: Path) -> PreTrainedModel:
        """Write the checkpoint into ``folder``, and return the model that it is of."""
        model = self.reference()
        model.save_pretrained(folder)
        if self.base:
            file = folder / "config.json"
            saved = json.loads(file.read_text())
            file.write_text(
                json.dumps({**saved, "architectures": [self.architecture], **self.renamed})
            )
        return model


def randomise(model: PreTrainedModel) -> None:
    """Seeded weights that keep activations at the size of a trained model's."""
    generator = torch.Generator().manual_seed(7)
    gemma = type(model).__name__.startswith("Gemma")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * 1.5 * parameter.shape[1] ** -0.5)
            elif parameter.ndim == 3:
                inputs = 1 if "feed_forward" in name else 2  # Llama 4's experts lie the other way
                parameter.copy_(noise * 1.5 * parameter.shape[inputs] ** -0.5)
            elif name.endswith("sinks"):
                parameter.copy_(noise * 2.0)
            elif name.endswith("norm.weight"):
                parameter.copy_(noise * 0.3 + (0.0 if gemma else 1.0))
            else:
                parameter.copy_(noise * 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)


_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 20}
_MIXED = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]

_VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip

_UPPER_LAYERS_WINDOWED = {
    "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1,
}  # fmt: skip

_LONG = {
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0],
}

_ROUTED = {
    "n_routed_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 3, "topk_group": 2,
    "routed_scaling_factor": 1.5, "norm_topk_prob": True,
}  # fmt: skip

_MLA = {
    "kv_lora_rank": 24, "q_lora_rank": 40, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip

_LLAMA4 = {
    "head_dim": 16, "intermediate_size": 32, "intermediate_size_mlp": 96, "num_hidden_layers": 5,
    "num_local_experts": 4, "interleave_moe_layer_step": 2, "attention_chunk_size": 20,
    "floor_scale": 8, "attn_scale": 0.4, **_rope("llama3", **_LLAMA3),
}  # fmt: skip

FAMILIES = [
    Family("llama", "LlamaForCausalLM", {}),
    Family("llama-tied-llama3", "LlamaForCausalLM", {
        "tie_word_embeddings": True, **_rope("llama3", **_LLAMA3),
    }),
    Family("llama-biases", "LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    Family("llama-one-kv-head-yarn", "LlamaForCausalLM", {
        "num_key_value_heads": 1, "head_dim": 24,
        **_rope("yarn", factor=4.0, original_max_position_embeddings=64),
    }),
    Family("llama-linear", "LlamaForCausalLM", {
        "max_position_embeddings": 64, **_rope("linear", factor=4.0),
    }),
    Family("mistral-full", "MistralForCausalLM", {"sliding_window": None}),
    Family("mistral-windowed", "MistralForCausalLM", {"sliding_window": 20}),
    Family("mistral-with-vision", "Mistral3ForConditionalGeneration", {
        "text_config": {**_TINY, "model_type": "mistral", "sliding_window": 20},
        "vision_config": {**_VISION, "model_type": "pixtral", "head_dim": 8},
        "tie_word_embeddings": False,
    }),
    Family("llama4", "Llama4ForCausalLM", _LLAMA4),
    Family("llama4-two-experts-unnormed", "Llama4ForCausalLM", {
        **_LLAMA4, "num_experts_per_tok": 2, "use_qk_norm": False, "attention_bias": True,
        "attn_temperature_tuning": False, "interleave_moe_layer_step": 1,
    }),
    Family("llama4-with-vision", "Llama4ForConditionalGeneration", {
        "text_config": {**_TINY, **_LLAMA4}, "vision_config": _VISION,
    }),
    Family("qwen2", "Qwen2ForCausalLM", {"num_key_value_heads": 4}),
    Family("qwen2-upper-layers-windowed", "Qwen2ForCausalLM", {
        "tie_word_embeddings": True, **_UPPER_LAYERS_WINDOWED,
    }),
    Family("qwen3", "Qwen3ForCausalLM", {"head_dim": 32}),
    Family("qwen3-upper-layers-windowed", "Qwen3ForCausalLM", {
        "head_dim": 32, **_UPPER_LAYERS_WINDOWED,
    }),
    Family("gemma2", "Gemma2ForCausalLM", {**_GEMMA, "num_hidden_layers": 4}),
    Family("gemma3", "Gemma3ForCausalLM", {
        **_GEMMA, "num_hidden_layers": 4, "layer_types": _MIXED,
    }),
    Family("gemma3-capped", "Gemma3ForCausalLM", {
        **_GEMMA, "num_hidden_layers": 2, "sliding_window_pattern": 2,
        "final_logit_softcapping": 3.0,
    }),
    Family("gemma3-with-vision", "Gemma3ForConditionalGeneration", {
        "text_config": {**_TINY, **_GEMMA, "layer_types": _MIXED[:3], "query_pre_attn_scalar": 32},
        "vision_config": _VISION,
    }),
    Family("gemma", "GemmaForCausalLM", {"head_dim": 32}),
    Family("phi3", "Phi3ForCausalLM", {"sliding_window": 20}),
    Family("phi4-mini", "Phi3ForCausalLM", {
        "tie_word_embeddings": True, **_rope("default", partial_rotary_factor=0.75),
    }),
    Family("phi3-longrope-short", "Phi3ForCausalLM", {
        "original_max_position_embeddings": 256, "max_position_embeddings": 1024,
        **_rope("longrope", **_LONG),
    }),
    Family("phi3-longrope-beyond", "Phi3ForCausalLM", {
        "original_max_position_embeddings": 16, "max_position_embeddings": 1024,
        **_rope("longrope", **_LONG),
    }, lengths=(70, 17, 19, 33)),
    Family("granite", "GraniteForCausalLM", {
        "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.6,
        "logits_scaling": 2.0,
    }),
    Family("olmo2", "Olmo2ForCausalLM", {}),
    Family("olmo3", "Olmo3ForCausalLM", {
        "sliding_window": 20, "num_hidden_layers": 4, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    }),
    Family("glm", "GlmForCausalLM", {"head_dim": 32}),
    Family("glm4", "Glm4ForCausalLM", {"head_dim": 16}),
    Family("mixtral", "MixtralForCausalLM", {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 20,
    }),
    Family("qwen2-moe", "Qwen2MoeForCausalLM", {
        "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2, "num_hidden_layers": 4,
        "mlp_only_layers": [3],
    }),
    Family("qwen2-moe-upper-layers-windowed", "Qwen2MoeForCausalLM", {
        "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 40, **_UPPER_LAYERS_WINDOWED,
    }),
    Family("qwen3-moe", "Qwen3MoeForCausalLM", {
        "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "head_dim": 32,
        "norm_topk_prob": True,
    }),
    Family("glm4-moe", "Glm4MoeForCausalLM", {**_ROUTED, "head_dim": 32, "use_qk_norm": True}),
    Family("starcoder2", "Starcoder2ForCausalLM", {"sliding_window": 20}),
    Family("cohere", "CohereForCausalLM", {"logit_scale": 0.5}),
    Family("cohere2", "Cohere2ForCausalLM", {
        "logit_scale": 0.5, "head_dim": 32, "sliding_window": 20, "layer_types": _MIXED,
        "num_hidden_layers": 4,
    }),
    Family("gpt2", "GPT2LMHeadModel", {
        "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256, "n_inner": 96,
        "num_key_value_heads": 4,
    }),
    Family("deepseek-v2-lite", "DeepseekV2ForCausalLM", {
        **_ROUTED, **_MLA, "q_lora_rank": None, "n_group": None, "topk_group": None,
        "topk_method": "greedy",
    }),
    Family("deepseek-v2", "DeepseekV2ForCausalLM", {
        **_ROUTED, **_MLA, "topk_method": "group_limited_greedy",
        **_rope("yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.7,
                mscale_all_dim=0.7),
    }),
    Family("deepseek-v3", "DeepseekV3ForCausalLM", {**_ROUTED, **_MLA}),
    Family("deepseek-v3-yarn", "DeepseekV3ForCausalLM", {
        **_ROUTED, **_MLA, "attention_bias": True,
        **_rope("yarn", factor=8.0, original_max_position_embeddings=32, mscale=1.0,
                mscale_all_dim=1.0),
    }),
    Family("kimi-k2", "DeepseekV3ForCausalLM", {**_ROUTED, **_MLA, "n_group": 1, "topk_group": 1},
        renamed={"model_type": "kimi_k2"}, base="DeepseekV3ForCausalLM"),
    Family("minicpm3", "MiniCPM3ForCausalLM", {**_MLA, "dim_model_base": 32, "scale_emb": 2}),
    Family("minicpm3-longrope", "MiniCPM3ForCausalLM", {
        **_MLA, "dim_model_base": 32, "original_max_position_embeddings": 16, **_rope(
            "longrope", factor=16.0, original_max_position_embeddings=16,
            short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 2.5, 3.0],
        ),
    }, lengths=(70, 17, 19, 33)),
    Family("gpt-oss", "GptOssForCausalLM", {
        "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 20,
        "num_hidden_layers": 4, "layer_types": None,
        **_rope("yarn", factor=4.0, original_max_position_embeddings=64, truncate=False),
    }),
    Family("internlm3", "InternLM3ForCausalLM", {"attention_bias": True, "mlp_bias": True},
        base="LlamaForCausalLM",
        renamed={"model_type": "internlm3", "qkv_bias": True, "bias": True}),
]  # fmt: skip
"""Every architecture of the registry, and within it whatever our code tells apart."""
