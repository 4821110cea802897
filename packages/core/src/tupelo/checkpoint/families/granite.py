"""Granite 3 and 4 dense: a Llama with factors on embeddings, attention, blocks and logits.

Source: Granite Team, IBM, "Granite 3.0 Language Models", 2024; Yang et al., "Tensor Programs V"
    (the factors), 2022.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.families.llama import IDS
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


def _granite(fields: Fields, _: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": fields.flag("mlp_bias", False),
        "embedding_scale": fields.positive("embedding_multiplier", 1.0),
        "attention_scale": fields.positive("attention_multiplier", 1.0),
        "residual_scale": fields.positive("residual_multiplier", 1.0),
        "logits_scale": 1.0 / fields.positive("logits_scaling", 1.0),
    }


def _gguf(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    width = fields.integer("embedding_length") / fields.integer("attention.head_count")
    return {
        "embedding_multiplier": fields.positive("embedding_scale", 1.0),
        "attention_multiplier": fields.positive("attention.scale", width**-0.5),
        "residual_multiplier": fields.positive("residual_scale", 1.0),
        "logits_scaling": fields.positive("logit_scale", 1.0),
    }


GRANITE: Final = Family(
    model_type="granite",
    gguf=GGUFForm(architecture="granite", config=_gguf, unpermute=True),
    defaults={**COMMON, **IDS, "max_position_embeddings": 2048},
    refine=_granite,
)
