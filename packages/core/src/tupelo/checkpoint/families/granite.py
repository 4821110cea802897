"""Granite 3 and 4 dense: a Llama with factors on embeddings, attention, blocks and logits.

Source: Granite Team, IBM, "Granite 3.0 Language Models", 2024; Yang et al., "Tensor Programs V"
    (the factors), 2022.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.families.llama import IDS
from tupelo.checkpoint.fields import Fields

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


GRANITE: Final = Family(
    model_type="granite",
    defaults={**COMMON, **IDS, "max_position_embeddings": 2048},
    refine=_granite,
)
