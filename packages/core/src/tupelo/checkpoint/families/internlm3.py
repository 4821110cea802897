"""InternLM 3: a Llama with switches of its own for biases.

Source: the configuration class published beside InternLM3's weights.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.families.llama import IDS, LLAMA_GGUF
from tupelo.checkpoint.fields import Fields

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


def _internlm3(fields: Fields, _: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("bias", False)
    return {
        "attention_bias": fields.flag("qkv_bias", False),
        "attention_output_bias": bias,
        "mlp_bias": bias,
    }


INTERNLM3: Final = Family(
    model_type="internlm3",
    gguf=LLAMA_GGUF,
    defaults={**COMMON, **IDS, "max_position_embeddings": 32768},
    refine=_internlm3,
)
