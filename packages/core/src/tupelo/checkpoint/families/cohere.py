"""Command-R and Command-R7B: attention and MLP side by side behind one layer norm without bias.

Pairs of neighbours are rotated; in Command-R7B every fourth layer attends in full and knows no
positions.

Source: Cohere's published configurations and model cards, 2024.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import Family, layer_windows
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.layout import LLAMA
from tupelo.checkpoint.rope import no_rope
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = replace(LLAMA, mlp_norm="")


def _cohere(fields: Fields, _: "ModelConfig") -> dict[str, Any]:
    if fields.flag("use_qk_norm", False):
        raise UnsupportedModel(
            f"{fields.where}: use_qk_norm is not supported: each head has a layer norm of its own"
        )
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "layer_norm": True,
        "parallel_blocks": True,
        "rope_interleaved": True,
        "logits_scale": fields.positive("logit_scale"),
        "layout": _LAYOUT,
    }


def _cohere2(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    pattern = fields.integer("sliding_window_pattern")
    windowed = layer_windows(fields, base.num_layers, lambda layer: (layer + 1) % pattern != 0)
    window = fields.integer("sliding_window") if any(windowed) else None
    return {
        **_cohere(fields, base),
        "windows": tuple(window if w else None for w in windowed),
        "ropes": {**base.ropes, "none": no_rope(base.head_dim, base.max_position_embeddings)},
        "rope_kinds": tuple("global" if w else "none" for w in windowed),
    }


_DEFAULTS: Final = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "logit_scale": 0.0625,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 5,
    "eos_token_id": 255001,
}
_ALIASES: Final = {"layer_norm_eps": "rms_norm_eps"}


def _gguf(header: GGUFHeader, fields: Fields) -> dict[str, Any]:
    normed = "blk.0.attn_q_norm.weight" in header.tensors
    return {"logit_scale": fields.positive("logit_scale"), "use_qk_norm": normed}


def _cohere2_gguf(header: GGUFHeader, fields: Fields) -> dict[str, Any]:
    return {**_gguf(header, fields), "sliding_window": fields.integer("attention.sliding_window")}


COHERE: Final = Family(
    model_type="cohere",
    gguf=GGUFForm(architecture="command-r", config=_gguf),
    aliases=_ALIASES,
    defaults={**_DEFAULTS, "rope_theta": 500_000.0},
    refine=_cohere,
)
COHERE2: Final = Family(
    model_type="cohere2",
    gguf=GGUFForm(architecture="cohere2", config=_cohere2_gguf),
    aliases=_ALIASES,
    defaults={**_DEFAULTS, "sliding_window": 4096, "sliding_window_pattern": 4},
    refine=_cohere2,
)
