"""A made-up family: a Llama with norms of heads, sizes under other names, and its own tensor names.

Imports no torch, like every family: configurations are read where no model is computed, too.
"""

from dataclasses import replace
from typing import Any, Final

from tupelo.checkpoint import Family, Layout, ModelConfig
from tupelo.checkpoint.fields import Fields

_LAYOUT: Final = replace(
    Layout(),
    prefix="",
    embedding="words",
    layers="blocks",
    norm="last_norm",
    q="attention.query",
    k="attention.key",
    v="attention.value",
    out="attention.out",
    q_norm="attention.query_norm",
    k_norm="attention.key_norm",
    input_norm="attention_norm",
    mlp_norm="mlp_norm",
)


def _sample(fields: Fields, base: ModelConfig) -> dict[str, Any]:
    return {"qk_norm": fields.flag("normed_heads", True), "layout": _LAYOUT}


SAMPLE: Final = Family(
    model_type="sample",
    aliases={"width": "hidden_size", "depth": "num_hidden_layers"},
    defaults={"hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 4096},
    refine=_sample,
)
