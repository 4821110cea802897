"""GGUF files in Hugging Face's terms: configuration, tensor names, and values stored differently.

A table with one entry per ``general.architecture``; the configuration goes through
``parse_hf_config``, so that both formats are checked by the same rules.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.gguf import GGUFHeader, decode, map_rows
from tupelo.checkpoint.model_config import ModelConfig, parse_hf_config
from tupelo.checkpoint.pooling import PoolingConfig, PoolingHead, last_token
from tupelo.checkpoint.tensors import HostTensor, TensorInfo
from tupelo.errors import CheckpointError, UnsupportedModel
from tupelo.pooling import PoolingKind

Rows = npt.NDArray[np.uint8]

_TOP_NAMES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_LAYER_NAMES: Final = {
    **_LAYER_NAMES,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_ROPE_FREQS: Final = "rope_freqs.weight"  # divisors of the frequencies: configuration, not a weight
_NAME: Final = re.compile(r"(?:blk\.(?P<layer>\d{1,4})\.)?(?P<what>\w+)\.(?P<kind>weight|bias)")


@dataclass(frozen=True, kw_only=True, slots=True)
class GGUFFamily:
    """One ``general.architecture``.

    Attributes:
        config: from the header, the Hugging Face fields beyond those that ``_common`` fills.
        layer_names: GGUF's names within a layer, to Hugging Face's.
        unpermute: q and k rows are stored with each head's halves interleaved.
        norm_offset: what the file adds to the weights of norms.
    """

    config: Callable[[GGUFHeader, Fields], dict[str, Any]]
    layer_names: Mapping[str, str] = field(default_factory=lambda: _LAYER_NAMES)
    unpermute: bool = False
    norm_offset: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GGUFModel:
    """A GGUF file's model in Hugging Face's names.

    Attributes:
        config: its shape.
        header: of its (first) file.
        tensors: by Hugging Face name, in file order; dtypes and offsets as in the file.
    """

    config: ModelConfig
    header: GGUFHeader
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> HostTensor:
        """The tensor ``name`` with Hugging Face's values; quantised types become float32.

        Raises:
            UnsupportedModel: a type without dequantiser.
            CheckpointError: the file changed since its header was read.
        """
        info = self.tensors[name]
        values = decode(self.read_rows(name), info.dtype, info.shape)
        offset = self._family.norm_offset
        if offset and name.endswith("norm.weight"):
            return HostTensor(values.array.astype(np.float32) - np.float32(offset), "float32")
        return values

    def read_rows(self, name: str) -> Rows:
        """The tensor's stored bytes, (rows, bytes per row), its rows in Hugging Face's order.

        Blocks of a quantised type never span rows, so that rows may be split or repacked as they
        are.
        """
        rows = map_rows(self.tensors[name])
        if not self._family.unpermute:
            return rows
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            return _unpermute(rows, self.config.num_heads, self.tensors[name])
        if name.endswith(("k_proj.weight", "k_proj.bias")):
            return _unpermute(rows, self.config.num_kv_heads, self.tensors[name])
        return rows

    @property
    def _family(self) -> GGUFFamily:
        return GGUF_FAMILIES[self.header.metadata["general.architecture"]]


def read_gguf_model(header: GGUFHeader, where: str) -> GGUFModel:
    """Translate ``header``; ``where`` names the file in errors.

    Raises:
        UnsupportedModel: an architecture, or a tensor, that has no translation.
        CheckpointError: a missing or nonsensical key.
    """
    top = Fields(header.metadata, where)
    name = top.text("general.architecture")
    if name not in GGUF_FAMILIES:
        raise UnsupportedModel(
            f"{where}: GGUF architecture {shown(repr(name))} is not supported; "
            f"supported: {', '.join(sorted(GGUF_FAMILIES))}"
        )
    family = GGUF_FAMILIES[name]
    prefix = f"{name}."
    keys = {k.removeprefix(prefix): v for k, v in header.metadata.items() if k.startswith(prefix)}
    fields = Fields(keys, f"{where}: {name}")
    config = parse_hf_config(
        {**_common(header, fields), **family.config(header, fields)}, where=where
    )
    biased = {n.rsplit(".", 2)[-2] for n in header.tensors if n.endswith(".bias")}
    config = replace(
        config,
        attention_bias="attn_q" in biased,
        attention_output_bias="attn_output" in biased,
        mlp_bias="ffn_up" in biased,
        pooling=_pooling(fields, config),
    )
    tensors = {}
    for info in header.tensors.values():
        if info.name != _ROPE_FREQS:
            hf_name = _hf_name(info.name, family, where)
            tensors[hf_name] = replace(info, name=hf_name)
    return GGUFModel(config=config, header=header, tensors=tensors)


def _common(header: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """The Hugging Face configuration that every architecture shares."""
    tokens = Fields(header.metadata, fields.where)
    num_heads = fields.integer("attention.head_count")
    head_dim = fields.integer(
        "attention.key_length", max(1, fields.integer("embedding_length") // num_heads)
    )
    if fields.integer("attention.value_length", head_dim) != head_dim:
        raise fields.error("attention.value_length", f"attention.key_length {head_dim}")
    if fields.integer("expert_count", 0, low=0):
        raise UnsupportedModel(f"{fields.where}: mixture-of-experts GGUF files are not supported")
    embedding = _tensor(header, "token_embd.weight", fields)
    rotary_dim = fields.integer("rope.dimension_count", head_dim, high=head_dim)
    return {
        "hidden_size": fields.integer("embedding_length"),
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_hidden_layers": fields.integer("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": fields.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "rms_norm_eps": fields.positive("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": fields.integer("context_length"),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_theta": fields.positive("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(header, fields, rotary_dim),
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


_POOLING_KINDS: Final = {1: PoolingKind.MEAN, 2: PoolingKind.CLS, 3: PoolingKind.LAST}


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
    """GGUF's ``rope.scaling.*`` and ``rope_freqs`` as a ``rope_scaling`` object."""
    if _ROPE_FREQS in header.tensors:
        # Llama 3's scaling, computed by the converter: exactly longrope with one set of divisors.
        info = header.tensors[_ROPE_FREQS]
        if info.dtype != "float32" or info.num_elements != rotary_dim // 2:
            raise CheckpointError(
                f"{fields.where}: {_ROPE_FREQS} must be {rotary_dim // 2} float32 values, "
                f"got {info.dtype} {list(info.shape)}"
            )
        divisors = decode(map_rows(info), info.dtype, info.shape).array.reshape(-1).tolist()
        return {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
        }
    kind = fields.text("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise UnsupportedModel(
            f"{fields.where}: rope.scaling.type {shown(repr(kind))} is not supported; "
            "supported: none, linear, yarn"
        )
    scaling: dict[str, Any] = {"rope_type": kind, "factor": fields.positive("rope.scaling.factor")}
    if kind == "yarn":
        for key, name in (
            ("rope.scaling.original_context_length", "original_max_position_embeddings"),
            ("rope.scaling.yarn_beta_fast", "beta_fast"),
            ("rope.scaling.yarn_beta_slow", "beta_slow"),
        ):
            if key in fields:
                scaling[name] = fields.values[key]
    return scaling


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


def _llama(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """GGUF says "llama" of Mistral too; only the window tells them apart."""
    window = fields.integer("attention.sliding_window", 0, low=0)
    if window:
        return {"architectures": ["MistralForCausalLM"], "sliding_window": window}
    return {"architectures": ["LlamaForCausalLM"]}


def _qwen2(_: GGUFHeader, __: Fields) -> dict[str, Any]:
    return {"architectures": ["Qwen2ForCausalLM"]}


def _qwen3(_: GGUFHeader, __: Fields) -> dict[str, Any]:
    return {"architectures": ["Qwen3ForCausalLM"]}


_GEMMA3_27B_LAYERS = 62


def _gemma3(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """The file has no attention scale: only the 27B model's is not that of its head_dim.

    Source: llama.cpp, ``llama_model::load_hparams`` for gemma3; Gemma 3's published configurations.
    """
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    scalar: float = fields.integer("attention.key_length", max(1, hidden // heads))
    if fields.integer("block_count") == _GEMMA3_27B_LAYERS:
        scalar = hidden / heads
    if "attention.scale" in fields:
        scalar = fields.positive("attention.scale") ** -2
    config: dict[str, Any] = {
        "architectures": ["Gemma3ForCausalLM"],
        "query_pre_attn_scalar": scalar,
        "rope_theta": fields.positive("rope.freq_base", 1_000_000.0),
        "rope_local_base_freq": fields.positive("rope.freq_base_swa", 10_000.0),
        "sliding_window": fields.integer("attention.sliding_window"),
        "attn_logit_softcapping": fields.optional_positive("attn_logit_softcapping"),
        "final_logit_softcapping": fields.optional_positive("final_logit_softcapping"),
    }
    pattern = fields.values.get("attention.sliding_window_pattern")
    if isinstance(pattern, np.ndarray):  # a flag per layer, in newer files
        types = ("full_attention", "sliding_attention")
        config["layer_types"] = [types[bool(windowed)] for windowed in pattern]
    elif pattern is not None:
        config["sliding_window_pattern"] = pattern
    return config


GGUF_FAMILIES: Final[dict[str, GGUFFamily]] = {
    "llama": GGUFFamily(config=_llama, unpermute=True),
    "qwen2": GGUFFamily(config=_qwen2),
    "qwen3": GGUFFamily(config=_qwen3),
    "gemma3": GGUFFamily(config=_gemma3, layer_names=_GEMMA_LAYER_NAMES, norm_offset=1.0),
}


def _hf_name(name: str, family: GGUFFamily, where: str) -> str:
    match = _NAME.fullmatch(name)
    if match is not None:
        layer = match["layer"]
        names = _TOP_NAMES if layer is None else family.layer_names
        if match["what"] in names:
            prefix = "" if layer is None else f"model.layers.{int(layer)}."
            return f"{prefix}{names[match['what']]}.{match['kind']}"
    raise UnsupportedModel(f"{where}: the tensor {shown(repr(name))} has no place in this model")


def _unpermute(rows: Rows, num_heads: int, info: TensorInfo) -> Rows:
    """Undo the converter's reordering of the rows of each head.

    Hugging Face rotates element i of a head with i + head_dim / 2, GGUF's llama 2 i with 2 i + 1:
    row ``2 i + h`` of a head in the file is row ``h * head_dim / 2 + i``. A bias has its rows along
    its only axis.
    """
    if len(info.shape) == 1:
        rows = rows.reshape(info.shape[0], info.num_bytes // max(1, info.shape[0]))
    num_rows, row_bytes = rows.shape
    if num_rows % (2 * num_heads):
        raise CheckpointError(f"tensor {info.name}: {num_rows} rows are not {num_heads} even heads")
    split = rows.reshape(num_heads, num_rows // num_heads // 2, 2, row_bytes)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(num_rows, row_bytes)
