"""OLMo 2: blocks are normed on their output alone, q and k over all heads at once.

Source: OLMo Team, "2 OLMo 2 Furious", 2024.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm, layer_types
from tupelo.checkpoint.layout import LLAMA

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = replace(
    LLAMA,
    input_norm="",
    mlp_norm="",
    attention_out_norm="post_attention_layernorm",
    mlp_out_norm="post_feedforward_layernorm",
)


def _olmo2(fields: Fields, _: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "qk_norm": True,
        "qk_norm_width": True,
        "layout": _LAYOUT,
    }


def _gguf(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """GGUF says "olmo2" of OLMo 3 too, which has windows."""
    window = fields.integer("attention.sliding_window", 0, low=0)
    if not window:
        return {}
    types = layer_types(fields)
    return {"architectures": ["Olmo3ForCausalLM"], "sliding_window": window, **types}


OLMO2: Final = Family(
    model_type="olmo2",
    gguf=GGUFForm(architecture="olmo2", config=_gguf),
    defaults={
        **COMMON,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "pad_token_id": 1,
        "eos_token_id": 50279,
    },
    refine=_olmo2,
)
