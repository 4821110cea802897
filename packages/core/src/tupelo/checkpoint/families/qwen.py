"""Qwen2 and Qwen2.5, with biases on q, k and v; Qwen3, with norms per head instead.

Source: Yang et al., "Qwen2 Technical Report", 2024; "Qwen3 Technical Report", 2025.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family, layer_windows
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf_form import GGUFForm

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


def qwen_windows(fields: Fields, base: "ModelConfig") -> tuple[int | None, ...]:
    """The first ``max_window_layers`` layers attend in full, and all do unless the switch is on."""
    if not fields.flag("use_sliding_window", False):
        return (None,) * base.num_layers
    window = fields.integer("sliding_window")
    first = fields.integer("max_window_layers", low=0)
    windowed = layer_windows(fields, base.num_layers, lambda layer: layer >= first)
    return tuple(window if w else None for w in windowed)


def _qwen2(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {"attention_bias": True, "windows": qwen_windows(fields, base)}


def _qwen3(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "qk_norm": True,
        "windows": qwen_windows(fields, base),
    }


DEFAULTS: Final = {
    **COMMON,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

QWEN2: Final = Family(
    model_type="qwen2",
    defaults=DEFAULTS,
    refine=_qwen2,
    gguf=GGUFForm(architecture="qwen2"),
)
QWEN3: Final = Family(
    model_type="qwen3",
    defaults={**DEFAULTS, "head_dim": 128},
    refine=_qwen3,
    gguf=GGUFForm(architecture="qwen3"),
)
