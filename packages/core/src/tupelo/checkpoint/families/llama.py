"""Llama 2 and 3, SmolLM2, and Mistral, whose window is in its configuration; of Mistral Small 3.1
and 3.2, which see, the text.

Source: Touvron et al., "LLaMA", 2023; Jiang et al., "Mistral 7B", 2023.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family, with_vision
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

IDS: Final = {"bos_token_id": 1, "eos_token_id": 2}


def _llama(fields: Fields, _: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": fields.flag("mlp_bias", False),
    }


def _mistral(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {"windows": (fields.optional_integer("sliding_window"),) * base.num_layers}


def _gguf(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """GGUF says "llama" of Mistral and Mixtral too: windows and experts tell them apart."""
    window = fields.integer("attention.sliding_window", 0, low=0) or None
    experts = fields.integer("expert_count", 0, low=0)
    if experts:
        return {
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": experts,
            "num_experts_per_tok": fields.integer("expert_used_count"),
            "sliding_window": window,
        }
    if window:
        return {"architectures": ["MistralForCausalLM"], "sliding_window": window}
    return {}


LLAMA_GGUF: Final = GGUFForm(architecture="llama", config=_gguf, unpermute=True)

LLAMA: Final = Family(
    model_type="llama",
    gguf=LLAMA_GGUF,
    defaults={**COMMON, **IDS, "max_position_embeddings": 2048},
    refine=_llama,
)
MISTRAL: Final = Family(
    model_type="mistral",
    gguf=LLAMA_GGUF,
    defaults={
        **COMMON,
        **IDS,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    refine=_mistral,
)
MISTRAL3: Final = with_vision(MISTRAL, "mistral3")
