"""Phi-3, Phi-3.5 and Phi-4: a Llama whose q, k and v, and gate and up, are stored as one tensor.

Source: Abdin et al., "Phi-3 Technical Report", 2024; "Phi-4 Technical Report", 2024.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf_form import GGUFForm, window
from tupelo.checkpoint.layout import LLAMA

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = replace(LLAMA, qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")


def _phi3(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {
        "layout": _LAYOUT,
        "windows": (fields.optional_integer("sliding_window"),) * base.num_layers,
    }


PHI3: Final = Family(
    model_type="phi3",
    gguf=GGUFForm(architecture="phi3", config=window),
    defaults={
        **COMMON,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
    },
    refine=_phi3,
)
