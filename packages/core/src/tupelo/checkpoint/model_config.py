"""A model's shape as the rest of Tupelo reads it, parsed from Hugging Face's ``config.json``.

What differs between families is in ``families/``; what every decoder has is here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tupelo.checkpoint.encoder import EncoderLayout
from tupelo.checkpoint.experts import ExpertConfig, check_experts
from tupelo.checkpoint.families import Family, find_family, name_of_type
from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.latent import LatentConfig
from tupelo.checkpoint.layout import LLAMA, Layout
from tupelo.checkpoint.pooling import (
    PoolingConfig,
    decoder_pooling,
    encoder_pooling,
    last_token,
)
from tupelo.checkpoint.rope import QueryGrowth, RopeConfig, parse_rope
from tupelo.errors import CheckpointError, UnsupportedModel

_MAX_LAYERS = 4096  # per-layer tuples are built from it, so a lying file must not choose it freely
_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder's shape, from a configuration file or a GGUF header.

    Attributes:
        architecture: the class name that Hugging Face gives it, e.g. ``"LlamaForCausalLM"``.
        model_type: Hugging Face's, e.g. ``"llama"``.
        attention_bias: q, k and v projections have a bias.
        attention_output_bias: the output projection has one.
        mlp_bias: the MLP's projections have one.
        qk_norm: queries and keys are RMS-normalised before the rope: per head, or, with
            ``qk_norm_width``, over all heads at once.
        qk_unit_norm: queries and keys of layers that turn are RMS-normalised per head, without
            weights.
        query_growth: of layers that do not turn; None: theirs do not grow.
        windows: (num_layers,) the sliding window of each layer (``KVSpec.window``), None for full
            attention. chunked: as in ``AttentionSpec``, of all windows.
        attention_scale: factor on ``q @ k``.
        attention_soft_cap, final_soft_cap: of attention scores and of the final logits; None for
            none.
        residual_scale: factor on the output of each block as it joins the residual stream.
        logits_scale: factor on the final logits, before the soft cap.
        sinks: each head has a logit of its own beside its scores.
        layer_norm: norms are about the mean, and have a bias where ``norm_bias``; else they are RMS
            norms.
        parallel_blocks: attention and MLP of a layer read the same, and are added together.
        gated_mlp: whether the MLP has a gate.
        learned_positions: rows of the table of positions that is added to the embeddings; 0: none.
        norm_offset: what is to be added to the stored weights of norms.
        latent: sizes of latent attention; None for heads that store K and V. With it,
            ``num_kv_heads`` is 1 and ``head_dim`` that of what is stored.
        experts: of layers that have some; None where none has.
        layout: what tensors are called, and which norms exist.
        encoder: the same of an encoder; None for a decoder.
        bidirectional: tokens see those after them too; such a model stores no K/V. A window then
            reaches as far ahead as back.
        pooling: what it makes of a text instead of more text; None if it generates.
        embedding_scale: factor on the token embeddings. Given exactly (Gemma:
            ``sqrt(hidden_size)``); the model must round it to the dtype of the embedding table
            before multiplying, as transformers does.
        ropes: the rope of each kind, by name: ``"global"``, and ``"local"`` where windowed layers
            have their own.
        rope_interleaved: pairs of elements that turn together are stored side by side, not half a
            head apart; such rows are put in the other order as they are loaded.
        rope_kinds: (num_layers,) the key into ``ropes`` of each layer.
        dtype: in which the weights were saved; where nothing says so, ``"float32"``.
        eos_token_ids: every id that ends a reply, the configuration's first.
        raw: the configuration as it was read, for messages and for what only one family needs.
    """

    architecture: str
    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    hidden_act: str
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    qk_norm_width: bool = False
    qk_unit_norm: bool = False
    query_growth: QueryGrowth | None = None
    windows: tuple[int | None, ...]
    chunked: bool = False
    attention_scale: float
    attention_soft_cap: float | None = None
    final_soft_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    sinks: bool = False
    layer_norm: bool = False
    norm_bias: bool = False
    parallel_blocks: bool = False
    gated_mlp: bool = True
    learned_positions: int = 0
    norm_offset: float = 0.0
    latent: LatentConfig | None = None
    experts: ExpertConfig | None = None
    layout: Layout = LLAMA
    encoder: EncoderLayout | None = None
    bidirectional: bool = False
    pooling: PoolingConfig | None = None
    rope_interleaved: bool = False
    ropes: Mapping[str, RopeConfig] = field(hash=False)
    rope_kinds: tuple[str, ...]
    dtype: str = "float32"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    def rope(self, layer: int) -> RopeConfig:
        """The rope of layer ``layer``."""
        return self.ropes[self.rope_kinds[layer]]


def parse_hf_config(config: Mapping[str, Any], *, where: str = "config.json") -> ModelConfig:
    """The model that a ``config.json`` describes, in the spelling of transformers 4 or 5.

    Args:
        config: the decoded JSON object.
        where: what to call it in errors.

    Raises:
        UnsupportedModel: an architecture, rope, layer type or quantisation without implementation.
        CheckpointError: a field that is missing, of the wrong type, or nonsense; the message names
            it.
    """
    architecture, family = _find_family(Fields(config, where))
    if family.section:
        config = _text_alone(config, Fields(config, where).section(family.section))
    # A null overrides the default, as in transformers: "sliding_window": null means no window.
    named = {family.aliases.get(name, name): value for name, value in config.items()}
    fields = Fields({**family.defaults, **named}, where)
    _refuse_quantised(fields, family)
    base = _parse_common(fields, architecture, family)
    model = replace(base, **family.refine(fields, base))
    model = replace(model, **_pooling(fields, model, family))
    _check_consistent(model, fields)
    return model


def _text_alone(config: Mapping[str, Any], text: Fields) -> dict[str, Any]:
    """What ``text`` says, and where it is silent what the whole says of a few things."""
    whole = ("dtype", "torch_dtype", "quantization_config", "eos_token_id")
    return {**text.values, **{k: config[k] for k in whole if k in config and k not in text}}


def _find_family(fields: Fields) -> tuple[str, Family]:
    """The architecture's name and family, by ``architectures`` or else by ``model_type``."""
    names = fields.texts("architectures")
    model_type = fields.text("model_type", "")
    name = names[0] if names else name_of_type(model_type) or model_type
    if not name:
        raise fields.error("architectures", "a list with the model's class name")
    return name, find_family(name, model_type=model_type, where=fields.where)


def _pooling(fields: Fields, model: ModelConfig, family: Family) -> dict[str, Any]:
    """What the model pools, and whether its attention looks ahead."""
    name, size = model.architecture, model.hidden_size
    if family.head is not None:
        layers = partial(family.head, fields, model)
        return {"pooling": encoder_pooling(fields, name, layers, family.unused)}
    pooling = decoder_pooling(fields, name, size)
    if model.bidirectional or not fields.flag("is_causal", True):
        return {"bidirectional": True, "pooling": pooling or last_token(fields)}
    return {"pooling": pooling}


def _refuse_quantised(fields: Fields, family: Family) -> None:
    """Quantised safetensors have layouts of their own; read as plain weights they are noise."""
    if quantization := fields.section("quantization_config").values:
        method = quantization.get("quant_method", "unknown")
        if method in family.quantised:
            return
        raise UnsupportedModel(
            f"{fields.where}: weights quantised with {shown(repr(method))} are not supported; "
            "use the unquantised model or a GGUF file of it"
        )


def _parse_common(fields: Fields, architecture: str, family: Family) -> ModelConfig:
    """What every family spells alike; windows full and one rope, for ``refine`` to change."""
    num_layers = fields.integer("num_hidden_layers", high=_MAX_LAYERS)
    num_heads = fields.integer("num_attention_heads")
    hidden_size = fields.integer("hidden_size")
    if "head_dim" not in fields and hidden_size % num_heads:
        raise fields.error("hidden_size", f"divisible by num_attention_heads {num_heads}")
    head_dim = fields.integer("head_dim", max(1, hidden_size // num_heads))
    max_positions = fields.integer("max_position_embeddings")
    section = "rope_parameters" if "rope_parameters" in fields else "rope_scaling"
    rope = parse_rope(
        fields,
        # Nested by layer type or of another width, it is refine's to read.
        Fields({}, fields.where) if family.nested_ropes else fields.section(section),
        head_dim=head_dim,
        max_positions=max_positions,
        theta=fields.positive("rope_theta", 10000.0),
    )
    return ModelConfig(
        architecture=architecture,
        model_type=family.model_type,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_dim=head_dim,
        intermediate_size=fields.integer(
            "intermediate_size", family.mlp_ratio * hidden_size or None
        ),
        hidden_act=fields.text("hidden_act"),
        rms_norm_eps=fields.positive("rms_norm_eps"),
        max_position_embeddings=max_positions,
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        windows=(None,) * num_layers,
        attention_scale=head_dim**-0.5,
        ropes={"global": rope},
        rope_kinds=("global",) * num_layers,
        dtype=_dtype(fields),
        bos_token_id=fields.token_id("bos_token_id"),
        eos_token_ids=fields.token_ids("eos_token_id"),
        pad_token_id=fields.token_id("pad_token_id"),
        raw=dict(fields.values),
    )


def _dtype(fields: Fields) -> str:
    name = "dtype" if "dtype" in fields else "torch_dtype"
    dtype = fields.text(name, "float32").removeprefix("torch.")
    if dtype not in _DTYPES:
        raise fields.error(name, f"one of {', '.join(_DTYPES)}")
    return dtype


def _check_consistent(model: ModelConfig, fields: Fields) -> None:
    """What must hold between fields, whatever the family."""
    if model.num_heads % model.num_kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of the {model.num_heads} heads")
    if model.experts is not None:
        check_experts(model.experts, fields)
    if model.chunked and model.bidirectional:
        raise fields.error("is_causal", "true: this model's attention is in chunks")
    if model.head_dim % 2:
        raise fields.error("head_dim", "even")
    for name in ("windows", "rope_kinds"):
        if len(getattr(model, name)) != model.num_layers:
            raise CheckpointError(f"{fields.where}: {name} must have one entry per layer")
