"""The configuration of a GGUF file: its metadata in Hugging Face's fields, and what its tensors
say of the model.

It goes through ``parse_hf_config``, so that both formats are checked by the same rules.
"""

from dataclasses import replace
from typing import Any, Final

from tupelo.checkpoint.experts import ExpertConfig
from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.gguf import GGUFHeader, decode, map_rows
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.gguf_names import ROPE_FACTORS, ROPE_FREQS
from tupelo.checkpoint.layout import Layout
from tupelo.checkpoint.model_config import ModelConfig, parse_hf_config
from tupelo.checkpoint.pooling import PoolingConfig, PoolingHead, last_token
from tupelo.checkpoint.tensors import TensorInfo
from tupelo.errors import CheckpointError, UnsupportedModel
from tupelo.pooling import PoolingKind

_POOLING_KINDS: Final = {1: PoolingKind.MEAN, 2: PoolingKind.CLS, 3: PoolingKind.LAST}


def gguf_config(header: GGUFHeader, form: GGUFForm, architecture: str, where: str) -> ModelConfig:
    """The model that ``header`` describes.

    Args:
        architecture: Hugging Face's, where the form's ``config`` names none.
        where: what to call the file in errors.

    Raises:
        UnsupportedModel: a rope or a kind of pooling without implementation.
        CheckpointError: a missing or nonsensical key.
    """
    prefix = f"{form.architecture}."
    keys = {k.removeprefix(prefix): v for k, v in header.metadata.items() if k.startswith(prefix)}
    fields = Fields(keys, f"{where}: {form.architecture}")
    common = {"architectures": [architecture], **_common(header, fields, form)}
    config = parse_hf_config({**common, **form.config(header, fields)}, where=where)
    biased = {n.rsplit(".", 2)[-2] for n in header.tensors if n.endswith(".bias")}
    return replace(
        config,
        attention_bias=not biased.isdisjoint(("attn_q", "attn_qkv", "attn_q_a")),
        attention_output_bias="attn_output" in biased,
        mlp_bias="ffn_up" in biased,
        layout=_layout(config, header),
        experts=None if config.experts is None else _experts(config, config.experts, header),
        pooling=_pooling(fields, config),
    )


def _layout(config: ModelConfig, header: GGUFHeader) -> Layout:
    """The family's, fused as far as the file is; nothing is stored transposed."""
    layout = config.layout
    what = {name.rsplit(".", 2)[-2] for name in header.tensors if name.startswith("blk.")}
    fused = config.gated_mlp and "ffn_up" in what and "ffn_gate" not in what
    return replace(
        layout,
        transposed=False,
        qkv=(layout.qkv or "self_attn.qkv_proj") if "attn_qkv" in what else "",
        gate_up=(layout.gate_up or "mlp.gate_up_proj") if fused else "",
    )


def _experts(config: ModelConfig, experts: ExpertConfig, header: GGUFHeader) -> ExpertConfig:
    """Which layers have some is seen from the tensors alone; see ``gguf_names`` for the rest."""
    has = (f"blk.{layer}.ffn_gate_inp.weight" for layer in range(config.num_layers))
    return replace(experts, layers=tuple(name in header.tensors for name in has), columns="")


def _common(header: GGUFHeader, fields: Fields, form: GGUFForm) -> dict[str, Any]:
    """The Hugging Face configuration that every architecture shares."""
    tokens = Fields(header.metadata, fields.where)
    num_heads = fields.integer("attention.head_count")
    head_dim = _head_dim(fields, num_heads, latent=form.latent)
    embedding = _tensor(header, "token_embd.weight", fields)
    rotary_dim = fields.integer("rope.dimension_count", head_dim, high=head_dim)
    eps = "attention.layer_norm_epsilon"
    scaling = _rope_scaling(header, fields, rotary_dim)
    return {
        "hidden_size": fields.integer("embedding_length"),
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_hidden_layers": _num_layers(fields),
        "num_attention_heads": num_heads,
        "num_key_value_heads": (
            num_heads if form.latent else fields.integer("attention.head_count_kv", num_heads)
        ),
        "head_dim": head_dim,
        "rms_norm_eps": fields.positive(
            eps if eps in fields else "attention.layer_norm_rms_epsilon"
        ),
        "max_position_embeddings": fields.integer("context_length"),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_theta": fields.positive("rope.freq_base", 10000.0),
        "rope_scaling": scaling and {**scaling, **form.rope_scaling},
        "is_causal": fields.flag("attention.causal", True),
        # A share of the head that comes out as rotary_dim again when it is multiplied and cut off.
        "partial_rotary_factor": min(1.0, (rotary_dim + 0.5) / head_dim),
        "dtype": _dtype(header),
        "bos_token_id": tokens.token_id("tokenizer.ggml.bos_token_id"),
        "eos_token_id": [
            i
            for name in ("eos", "eot", "eom")
            if (i := tokens.token_id(f"tokenizer.ggml.{name}_token_id")) is not None
        ],
        "pad_token_id": tokens.token_id("tokenizer.ggml.padding_token_id"),
    }


def _head_dim(fields: Fields, num_heads: int, *, latent: bool) -> int:
    if latent:  # the family's file works out the rest
        return fields.integer("rope.dimension_count")
    head_dim = fields.integer(
        "attention.key_length", max(1, fields.integer("embedding_length") // num_heads)
    )
    if fields.integer("attention.value_length", head_dim) != head_dim:
        raise fields.error("attention.value_length", f"attention.key_length {head_dim}")
    return head_dim


def _num_layers(fields: Fields) -> int:
    """Without those at the end that predict further tokens at once."""
    count = fields.integer("block_count")
    return count - fields.integer("nextn_predict_layers", 0, low=0, high=count - 1)


def _pooling(fields: Fields, config: ModelConfig) -> PoolingConfig | None:
    """The embedding that ``pooling_type`` makes of a decoder; as ``config`` where it says nothing.

    Source: llama.cpp, ``enum llama_pooling_type``; its vectors are normalised.

    Raises:
        UnsupportedModel: a kind that is not computed here, such as 4, a reranker's.
    """
    kind = fields.integer("pooling_type", 0, low=0)
    if kind == 0:
        return config.pooling
    if kind not in _POOLING_KINDS:
        raise UnsupportedModel(
            f"{fields.where}: pooling_type {kind} is not supported; "
            f"supported: {', '.join(map(str, _POOLING_KINDS))}"
        )
    heads = {"": PoolingHead(kind=_POOLING_KINDS[kind])}
    return replace(last_token(fields), heads=heads)


def _rope_scaling(header: GGUFHeader, fields: Fields, rotary_dim: int) -> dict[str, Any] | None:
    """GGUF's ``rope.scaling.*`` and tensors of divisors as a ``rope_scaling`` object."""
    if ROPE_FREQS in header.tensors:
        # Llama 3's scaling, computed by the converter: exactly longrope with one set of divisors.
        divisors = _divisors(header, ROPE_FREQS, rotary_dim, fields)
        return {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
        }
    original = "rope.scaling.original_context_length"
    given = {}
    if original in fields:
        given["original_max_position_embeddings"] = fields.integer(original)
    if any(name in header.tensors for name in ROPE_FACTORS):
        short, long = (_divisors(header, name, rotary_dim, fields) for name in ROPE_FACTORS)
        scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long, **given}
        if "rope.scaling.attn_factor" in fields:
            scaling["attention_factor"] = fields.positive("rope.scaling.attn_factor")
        return scaling
    kind = fields.text("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise UnsupportedModel(
            f"{fields.where}: rope.scaling.type {shown(repr(kind))} is not supported; "
            "supported: none, linear, yarn, and longrope by its tensors"
        )
    factor = fields.positive("rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": kind, "factor": factor}
    return {"rope_type": kind, "factor": factor, **given, **_yarn(fields)}


def _yarn(fields: Fields) -> dict[str, Any]:
    """What only some files say. Source: llama.cpp, where it works out ``yarn_attn_factor``."""
    scaling: dict[str, Any] = {
        name: fields.values[f"rope.scaling.yarn_{name}"]
        for name in ("beta_fast", "beta_slow")
        if f"rope.scaling.yarn_{name}" in fields
    }
    if "rope.scaling.yarn_log_multiplier" in fields:
        # DeepSeek's mscale_all_dim over ten; its mscale is taken to be the same.
        every = 10.0 * fields.positive("rope.scaling.yarn_log_multiplier")
        scaling |= {"mscale_all_dim": every, "attention_factor": 1.0}
    return scaling


def _divisors(header: GGUFHeader, name: str, rotary_dim: int, fields: Fields) -> list[float]:
    info = header.tensors.get(name)
    if info is None or info.dtype != "float32" or info.num_elements != rotary_dim // 2:
        got = "none" if info is None else f"{info.dtype} {list(info.shape)}"
        raise CheckpointError(
            f"{fields.where}: {name} must be {rotary_dim // 2} float32 values, got {got}"
        )
    values: list[float] = decode(map_rows(info), info.dtype, info.shape).array.reshape(-1).tolist()
    return values


def _dtype(header: GGUFHeader) -> str:
    """The half type that holds most of the weights; float32 where they are quantised or float32."""
    sizes: dict[str, int] = {}
    for info in header.tensors.values():
        dtype = info.dtype if info.dtype in ("float16", "bfloat16") else "float32"
        sizes[dtype] = sizes.get(dtype, 0) + info.num_elements
    return max(sizes, key=sizes.__getitem__)


def _tensor(header: GGUFHeader, name: str, fields: Fields) -> TensorInfo:
    info = header.tensors.get(name)
    if info is None or len(info.shape) != 2:
        raise CheckpointError(f"{fields.where}: the tensor {name} is missing or not 2-D")
    return info
