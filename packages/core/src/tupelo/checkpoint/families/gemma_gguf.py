"""Gemma in GGUF files: norms are stored with their 1 added, scales of attention not at all.

Source: llama.cpp, how it reads hyperparameters of each; Gemma's published configurations.
"""

from typing import Any, Final

from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader
from tupelo.checkpoint.gguf_form import GGUFForm, layer_types

_GEMMA2_27B_LAYERS, _GEMMA3_27B_LAYERS = 46, 62


def _query_scalar(fields: Fields, layers_of_27b: int) -> float:
    """Only the 27B model's scale is not that of its head_dim."""
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    if "attention.scale" in fields:
        scale = fields.positive("attention.scale")
        return scale**-2
    if fields.integer("block_count") == layers_of_27b:
        return hidden / heads
    return fields.integer("attention.key_length", max(1, hidden // heads))


def _capped(fields: Fields) -> dict[str, Any]:
    return {
        "sliding_window": fields.integer("attention.sliding_window"),
        "attn_logit_softcapping": fields.optional_positive("attn_logit_softcapping"),
        "final_logit_softcapping": fields.optional_positive("final_logit_softcapping"),
        **layer_types(fields),
    }


def _gemma2(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    scalar = _query_scalar(fields, _GEMMA2_27B_LAYERS)
    return {**_capped(fields), "query_pre_attn_scalar": scalar}


def _gemma3(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    return {
        **_capped(fields),
        "query_pre_attn_scalar": _query_scalar(fields, _GEMMA3_27B_LAYERS),
        "rope_theta": fields.positive("rope.freq_base", 1_000_000.0),
        "rope_local_base_freq": fields.positive("rope.freq_base_swa", 10_000.0),
    }


GEMMA_GGUF: Final = GGUFForm(architecture="gemma", norm_offset=1.0)
GEMMA2_GGUF: Final = GGUFForm(architecture="gemma2", config=_gemma2, norm_offset=1.0)
GEMMA3_GGUF: Final = GGUFForm(architecture="gemma3", config=_gemma3, norm_offset=1.0)
