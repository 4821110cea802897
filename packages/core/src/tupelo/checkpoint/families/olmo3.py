"""OLMo 3: an OLMo 2 with windows on three of four layers; only the full ones stretch their rope.

Source: OLMo Team, "Olmo 3", 2025.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import Family, layer_windows
from tupelo.checkpoint.families.olmo2 import OLMO2
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.rope import parse_rope

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


def _olmo3(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    windowed = layer_windows(fields, base.num_layers, lambda layer: (layer + 1) % 4 != 0)
    window = fields.optional_integer("sliding_window")
    nested = fields.section("rope_parameters")
    full = "full_attention" in nested
    rope = partial(
        parse_rope,
        fields,
        head_dim=base.head_dim,
        max_positions=base.max_position_embeddings,
        theta=fields.positive("rope_theta", 500_000.0),
    )
    return {
        **OLMO2.refine(fields, base),
        "windows": tuple(window if w else None for w in windowed),
        "ropes": {
            # Files of transformers 4 keep what stretches it beside the theta of both.
            "global": rope(
                nested.section("full_attention") if full else fields.section("rope_scaling")
            ),
            "local": rope(nested.section("sliding_attention")),
        },
        "rope_kinds": tuple("local" if w else "global" for w in windowed),
    }


OLMO3: Final = Family(
    model_type="olmo3",
    defaults={**OLMO2.defaults, "sliding_window": 4096},
    refine=_olmo3,
    nested_ropes=True,
    gguf=OLMO2.gguf,
)
