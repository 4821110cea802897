"""The supported model families: a table of architectures, each a few lines of what is different.

To add a family: its defaults (those of its transformers class, for fields that its files omit) and
a ``refine`` that returns the ``ModelConfig`` fields that differ from a plain Llama.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.rope import RopeConfig, parse_rope
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

Refine = Callable[[Fields, "ModelConfig"], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        model_type: Hugging Face's.
        defaults: values of fields that its configuration files may omit.
        refine: from the fields and the configuration read as a plain Llama, the fields to replace.
        nested_ropes: ``rope_parameters`` is keyed by layer type, and ``refine`` sets ``ropes``.
    """

    model_type: str
    defaults: Mapping[str, Any]
    refine: Refine
    nested_ropes: bool = field(default=False)


def layer_windows(fields: Fields, num_layers: int, default: Callable[[int], bool]) -> list[bool]:
    """Which layers are windowed: by ``layer_types``, else by ``default`` of the layer's index.

    Raises:
        UnsupportedModel: a layer type that is neither full nor sliding attention.
        CheckpointError: a list of the wrong length.
    """
    types = fields.texts("layer_types")
    if not types:
        return [default(layer) for layer in range(num_layers)]
    if len(types) != num_layers:
        raise fields.error("layer_types", f"a list of {num_layers} entries, one per layer")
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            raise UnsupportedModel(
                f"{fields.where}: layer type {shown(repr(name))} is not supported; "
                "supported: full_attention, sliding_attention"
            )
    return [name == "sliding_attention" for name in types]


def _llama(fields: Fields, _: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": fields.flag("mlp_bias", False),
    }


def _mistral(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {"windows": (fields.optional_integer("sliding_window"),) * base.num_layers}


def _qwen_windows(fields: Fields, base: "ModelConfig") -> tuple[int | None, ...]:
    """The first ``max_window_layers`` layers attend in full, and all do unless the switch is on."""
    if not fields.flag("use_sliding_window", False):
        return (None,) * base.num_layers
    window = fields.integer("sliding_window")
    first = fields.integer("max_window_layers", low=0)
    windowed = layer_windows(fields, base.num_layers, lambda layer: layer >= first)
    return tuple(window if w else None for w in windowed)


def _qwen2(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    return {"attention_bias": True, "windows": _qwen_windows(fields, base)}


def _qwen3(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    bias = fields.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "qk_norm": True,
        "windows": _qwen_windows(fields, base),
    }


def _gemma3(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    if fields.flag("use_bidirectional_attention", False):
        raise UnsupportedModel(
            f"{fields.where}: use_bidirectional_attention is not supported; this is an encoder"
        )
    pattern = fields.integer("sliding_window_pattern")
    windowed = layer_windows(fields, base.num_layers, lambda layer: (layer + 1) % pattern != 0)
    window = fields.integer("sliding_window") if any(windowed) else None
    bias = fields.flag("attention_bias", False)
    return {
        "hidden_act": fields.text("hidden_activation", base.hidden_act),
        "attention_bias": bias,
        "attention_output_bias": bias,
        "qk_norm": True,
        "windows": tuple(window if w else None for w in windowed),
        "attention_scale": fields.positive("query_pre_attn_scalar") ** -0.5,
        "attention_soft_cap": fields.optional_positive("attn_logit_softcapping"),
        "final_soft_cap": fields.optional_positive("final_logit_softcapping"),
        "embedding_scale": base.hidden_size**0.5,
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


_COMMON: Final = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_LLAMA_IDS: Final = {"bos_token_id": 1, "eos_token_id": 2}
_QWEN: Final = {
    **_COMMON,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

FAMILIES: Final[dict[str, Family]] = {
    "LlamaForCausalLM": Family(
        model_type="llama",
        defaults={**_COMMON, **_LLAMA_IDS, "max_position_embeddings": 2048},
        refine=_llama,
    ),
    "MistralForCausalLM": Family(
        model_type="mistral",
        defaults={
            **_COMMON,
            **_LLAMA_IDS,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
        refine=_mistral,
    ),
    "Qwen2ForCausalLM": Family(model_type="qwen2", defaults=_QWEN, refine=_qwen2),
    "Qwen3ForCausalLM": Family(
        model_type="qwen3", defaults={**_QWEN, "head_dim": 128}, refine=_qwen3
    ),
    "Gemma3ForCausalLM": Family(
        model_type="gemma3_text",
        defaults={
            "hidden_act": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            "max_position_embeddings": 131072,
            "vocab_size": 262208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
        },
        refine=_gemma3,
        nested_ropes=True,
    ),
}
