"""Gemma 1, 2 and 3, the text of it: a norm multiplies by ``1 + weight``, embeddings are scaled.

Gemma 2 and 3 norm blocks on both sides and mix windowed with full layers; Gemma 2 soft-caps scores
and logits, Gemma 3 has norms per head and a rope for each kind of layer.

Source: Gemma Team, "Gemma", "Gemma 2" and "Gemma 3 Technical Report", 2024 and 2025.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import Family, layer_windows, with_vision
from tupelo.checkpoint.families.gemma_gguf import GEMMA2_GGUF, GEMMA3_GGUF, GEMMA_GGUF
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.layout import SANDWICH
from tupelo.checkpoint.rope import RopeConfig, parse_rope

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


def _common(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "hidden_act": fields.text("hidden_activation", base.hidden_act),
        "attention_bias": bias,
        "attention_output_bias": bias,
        "attention_scale": fields.positive("query_pre_attn_scalar") ** -0.5,
        "attention_soft_cap": fields.optional_positive("attn_logit_softcapping"),
        "final_soft_cap": fields.optional_positive("final_logit_softcapping"),
        "embedding_scale": base.hidden_size**0.5,
        "norm_offset": 1.0,
        "layout": SANDWICH,
    }


def _gemma3(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    both_ways = fields.flag("use_bidirectional_attention", False)
    pattern = fields.integer("sliding_window_pattern")
    windowed = layer_windows(fields, base.num_layers, lambda layer: (layer + 1) % pattern != 0)
    window = fields.integer("sliding_window") if any(windowed) else None
    if window is not None and both_ways:  # it is the span of both sides
        window = window // 2 + 1
    return {
        **_common(fields, base),
        "bidirectional": both_ways,
        "qk_norm": True,
        "windows": tuple(window if w else None for w in windowed),
        "ropes": _gemma3_ropes(fields, base),
        "rope_kinds": tuple("local" if w else "global" for w in windowed),
    }


def _gemma3_ropes(fields: Fields, base: "ModelConfig") -> dict[str, RopeConfig]:
    """``rope_scaling`` of the older spelling is the global layers' alone."""
    nested = fields.section("rope_parameters")

    def rope(section: Fields, theta: float) -> RopeConfig:
        return parse_rope(
            fields,
            section,
            head_dim=base.head_dim,
            max_positions=base.max_position_embeddings,
            theta=theta,
        )

    full = "full_attention" in nested
    return {
        "global": rope(
            nested.section("full_attention") if full else fields.section("rope_scaling"),
            fields.positive("rope_theta", 1_000_000.0),
        ),
        "local": rope(
            nested.section("sliding_attention"),
            fields.positive("rope_local_base_freq", 10_000.0),
        ),
    }


def _gemma(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    """Older files say "gelu" and mean its tanh form, as transformers takes it."""
    bias = fields.flag("attention_bias", False)
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "attention_bias": bias,
        "attention_output_bias": bias,
        "embedding_scale": base.hidden_size**0.5,
        "norm_offset": 1.0,
    }


def _gemma2(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    """Every other layer is windowed, the first one too."""
    windowed = layer_windows(fields, base.num_layers, lambda layer: layer % 2 == 0)
    window = fields.integer("sliding_window")
    return {
        **_common(fields, base),
        "windows": tuple(window if w else None for w in windowed),
    }


_DEFAULTS: Final = {
    "hidden_act": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}

GEMMA: Final = Family(
    model_type="gemma",
    gguf=GEMMA_GGUF,
    defaults={**_DEFAULTS, "max_position_embeddings": 8192, "num_key_value_heads": 16},
    refine=_gemma,
)
GEMMA2: Final = Family(
    model_type="gemma2",
    gguf=GEMMA2_GGUF,
    defaults={
        **_DEFAULTS,
        "max_position_embeddings": 8192,
        "vocab_size": 256000,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    refine=_gemma2,
)
GEMMA3: Final = Family(
    model_type="gemma3_text",
    gguf=GEMMA3_GGUF,
    defaults={
        **_DEFAULTS,
        "max_position_embeddings": 131072,
        "vocab_size": 262208,
        "sliding_window_pattern": 6,
    },
    refine=_gemma3,
    nested_ropes=True,
)
GEMMA3_WITH_VISION: Final = with_vision(GEMMA3, "gemma3")
