"""GLM-4 in both of its forms: ``Glm`` (GLM-4-9B) and ``Glm4`` (the 0414 models, normed around
blocks).

Half of a head is rotated, by pairs of neighbours.

Source: Team GLM, "ChatGLM: A Family of Large Language Models", 2024.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.layout import LLAMA, Layout

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_GLM_LAYOUT: Final = replace(LLAMA, gate_up="mlp.gate_up_proj")
_GLM4_LAYOUT: Final = replace(
    _GLM_LAYOUT,
    attention_out_norm="post_self_attn_layernorm",
    mlp_out_norm="post_mlp_layernorm",
)


def _refined(fields: Fields, layout: Layout) -> dict[str, Any]:
    return {
        "attention_bias": fields.flag("attention_bias", True),
        "layout": layout,
        "rope_interleaved": True,
    }


def _glm(fields: Fields, _: "ModelConfig") -> dict[str, Any]:
    return _refined(fields, _GLM_LAYOUT)


def _glm4(fields: Fields, _: "ModelConfig") -> dict[str, Any]:
    return _refined(fields, _GLM4_LAYOUT)


_DEFAULTS: Final = {
    **COMMON,
    "rms_norm_eps": 1.5625e-07,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "partial_rotary_factor": 0.5,
    "pad_token_id": 151329,
    "eos_token_id": [151329, 151336, 151338],
}

GLM: Final = Family(
    model_type="glm",
    defaults=_DEFAULTS,
    refine=_glm,
    gguf=GGUFForm(architecture="chatglm"),
)
GLM4: Final = Family(
    model_type="glm4",
    defaults=_DEFAULTS,
    refine=_glm4,
    gguf=GGUFForm(architecture="glm4"),
)
