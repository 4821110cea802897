"""ModernBERT: rotated heads, windows on either side in most layers, norms before blocks, GeGLU.

Source: Warner et al., "Smarter, Better, Faster, Longer", 2024.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.encoder import EncoderLayout
from tupelo.checkpoint.families.family import Family, layer_windows
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.pooling import HeadLayer
from tupelo.checkpoint.rope import parse_rope

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


def _modernbert(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    every = fields.integer("global_attn_every_n_layers")
    windowed = layer_windows(fields, base.num_layers, lambda layer: layer % every != 0)
    window = fields.integer("local_attention") // 2 + 1
    nested = fields.section("rope_parameters")
    ropes = {
        kind: parse_rope(
            fields,
            nested.section(section),
            head_dim=base.head_dim,
            max_positions=base.max_position_embeddings,
            theta=fields.positive(f"{kind}_rope_theta"),
        )
        for kind, section in (("global", "full_attention"), ("local", "sliding_attention"))
    }
    bias = fields.flag("attention_bias", False)
    return {
        "hidden_act": fields.text("hidden_activation"),
        "rms_norm_eps": fields.positive("norm_eps"),
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": fields.flag("mlp_bias", False),
        "bidirectional": True,
        "windows": tuple(window if w else None for w in windowed),
        "ropes": ropes,
        "rope_kinds": tuple("local" if w else "global" for w in windowed),
        "encoder": EncoderLayout(
            prefix="model.",
            words="embeddings.tok_embeddings",
            embedding_norm="embeddings.norm",
            layers="layers",
            qkv=("attn.Wqkv",),
            out="attn.Wo",
            attention_norm="attn_norm",
            up="mlp.Wi",
            down="mlp.Wo",
            mlp_norm="mlp_norm",
            final_norm="final_norm",
            norms_first=True,
            gated=True,
            norm_bias=fields.flag("norm_bias", False),
        ),
    }


def _head(fields: Fields, base: "ModelConfig", size: int, *, whole: bool) -> list[HeadLayer]:
    hidden = base.hidden_size
    return [
        HeadLayer(
            name="head.dense",
            in_features=hidden,
            out_features=hidden,
            bias=fields.flag("classifier_bias", False),
            activation=fields.text("classifier_activation"),
            norm="head.norm",
            norm_bias=fields.flag("norm_bias", False),
        ),
        HeadLayer(name="classifier", in_features=hidden, out_features=size, bias=True),
    ]


MODERNBERT: Final = Family(
    model_type="modernbert",
    defaults={
        "hidden_act": "gelu",
        "hidden_activation": "gelu",
        "rms_norm_eps": 1.0,  # it is norm_eps here
        "norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "classifier_activation": "gelu",
        "classifier_pooling": "cls",
    },
    refine=_modernbert,
    nested_ropes=True,
    head=_head,
    unused=("head.", "decoder."),
    model="tupelo.models.encoder:Encoder",
)
