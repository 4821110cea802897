"""StarCoder 2: layer norms, an MLP without gate, biases everywhere, a sliding window.

Source: Lozhkov et al., "StarCoder 2 and The Stack v2", 2024.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import Family
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf_form import GGUFForm, window
from tupelo.checkpoint.layout import LLAMA

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = replace(LLAMA, up="mlp.c_fc", down="mlp.c_proj")


def _starcoder2(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("use_bias", True)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": bias,
        "layer_norm": True,
        "norm_bias": True,
        "gated_mlp": False,
        "layout": _LAYOUT,
        "windows": (fields.optional_integer("sliding_window"),) * base.num_layers,
    }


STARCODER2: Final = Family(
    model_type="starcoder2",
    gguf=GGUFForm(architecture="starcoder2", config=window),
    aliases={"norm_epsilon": "rms_norm_eps"},
    defaults={
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    refine=_starcoder2,
)
