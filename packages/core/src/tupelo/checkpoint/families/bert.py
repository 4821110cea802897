"""BERT, RoBERTa and XLM-RoBERTa: MiniLM, bge, gte and e5 among them, and cross-encoders.

Source: Devlin et al., "BERT", 2018; Liu et al., "RoBERTa", 2019; Conneau et al., "Unsupervised
Cross-lingual Representation Learning at Scale", 2019.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.encoder import EncoderLayout
from tupelo.checkpoint.families.family import Family
from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.pooling import HeadLayer
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = EncoderLayout(
    prefix="bert.",
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    segments="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layers="encoder.layer",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    mlp_norm="output.LayerNorm",
)


def _bert(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    positions = fields.text("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UnsupportedModel(
            f"{fields.where}: position_embedding_type {shown(repr(positions))} is not supported; "
            "supported: absolute"
        )
    return {
        "rms_norm_eps": fields.positive("layer_norm_eps"),
        "attention_bias": True,
        "attention_output_bias": True,
        "mlp_bias": True,
        "bidirectional": True,
        "encoder": replace(_LAYOUT, num_segments=fields.integer("type_vocab_size")),
    }


def _roberta(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    """Positions begin after the padding token's id."""
    first = fields.integer("pad_token_id", low=0) + 1
    if base.max_position_embeddings <= first:
        raise fields.error("max_position_embeddings", f"above {first}")
    values = _bert(fields, base)
    layout: EncoderLayout = values["encoder"]
    return {
        **values,
        "max_position_embeddings": base.max_position_embeddings - first,
        "encoder": replace(layout, prefix="roberta.", first_position=first),
    }


def _bert_head(fields: Fields, base: "ModelConfig", size: int, *, whole: bool) -> list[HeadLayer]:
    """The pooler, of whole texts alone, and the classifier."""
    hidden = base.hidden_size
    last = HeadLayer(name="classifier", in_features=hidden, out_features=size, bias=True)
    pooler = HeadLayer(
        name="pooler.dense", in_features=hidden, out_features=hidden, bias=True, activation="tanh"
    )
    return [pooler, last] if whole else [last]


def _roberta_head(
    fields: Fields, base: "ModelConfig", size: int, *, whole: bool
) -> list[HeadLayer]:
    if not whole:
        return _bert_head(fields, base, size, whole=False)
    pooler, last = _bert_head(fields, base, size, whole=True)
    return [replace(pooler, name="classifier.dense"), replace(last, name="classifier.out_proj")]


_DEFAULTS: Final = {
    "hidden_act": "gelu",
    "rms_norm_eps": 1.0,  # it is layer_norm_eps here
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
_UNUSED: Final = ("pooler.", "cls.", "embeddings.position_ids")

BERT: Final = Family(
    model_type="bert",
    defaults=_DEFAULTS,
    refine=_bert,
    head=_bert_head,
    unused=_UNUSED,
    model="tupelo.models.encoder:Encoder",
)
ROBERTA: Final = replace(
    BERT,
    model_type="roberta",
    defaults={**_DEFAULTS, "pad_token_id": 1},
    refine=_roberta,
    head=_roberta_head,
    unused=(*_UNUSED, "lm_head."),
)
XLM_ROBERTA: Final = replace(ROBERTA, model_type="xlm-roberta")
