"""Mixtral: Mistral with eight experts a layer.

Source: Jiang et al., "Mixtral of Experts", 2024.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.experts import ExpertConfig
from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.families.llama import IDS, LLAMA_GGUF
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.layout import LLAMA

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = replace(
    LLAMA,
    router="block_sparse_moe.gate",
    experts="block_sparse_moe.experts",
    expert_gate="w1",
    expert_up="w3",
    expert_down="w2",
)


def _mixtral(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {
        "windows": (fields.optional_integer("sliding_window"),) * base.num_layers,
        "layout": _LAYOUT,
        "experts": ExpertConfig(
            layers=(True,) * base.num_layers,
            num_experts=fields.integer("num_local_experts", high=4096),
            top_k=fields.integer("num_experts_per_tok"),
            intermediate_size=base.intermediate_size,
        ),
    }


MIXTRAL: Final = Family(
    model_type="mixtral",
    gguf=LLAMA_GGUF,
    defaults={
        **COMMON,
        **IDS,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rope_theta": 1_000_000.0,
    },
    refine=_mixtral,
)
