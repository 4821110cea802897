"""Names and places of a GGUF file's tensors in Hugging Face's terms.

GGUF stores all experts of a layer as one tensor: here each expert's part is a tensor of its own,
whose bytes are a stretch of the stored ones.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from tupelo.checkpoint.fields import shown
from tupelo.checkpoint.layout import Layout
from tupelo.checkpoint.tensors import TensorInfo
from tupelo.errors import CheckpointError, UnsupportedModel

ROPE_FREQS: Final = "rope_freqs.weight"
ROPE_FACTORS: Final = ("rope_factors_short.weight", "rope_factors_long.weight")
_SETTINGS: Final = (ROPE_FREQS, *ROPE_FACTORS)  # divisors of frequencies: configuration, no weights
_NAME: Final = re.compile(r"(?:blk\.(?P<layer>\d{1,4})\.)?(?P<what>\w+)\.(?P<kind>weight|bias)")
_LAYER: Final = re.compile(r"blk\.(\d{1,4})\.")
_EXPERTS: Final = re.compile(r"ffn_(gate_up|gate|up|down)_exps")
_LATENT: Final = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
}
_MAX_EXPERTS = 4096  # each becomes an object, so a lying file must not choose how many there are
_KEYS, _VALUES = "attn_k_b", "attn_v_b"  # the two parts of attn_kv_b in newer files


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedInfo(TensorInfo):
    """``kv_b_proj`` where it is stored in two parts; ``shape`` is that of both together.

    Attributes:
        keys: (num_heads, kv_rank, nope_dim), as stored.
        values: (num_heads, value_dim, kv_rank), as stored.
    """

    keys: TensorInfo
    values: TensorInfo


def translate(
    tensors: Mapping[str, TensorInfo], layout: Layout, num_layers: int, where: str
) -> dict[str, TensorInfo]:
    """By Hugging Face name, in file order; without layers beyond ``num_layers``, which predict
    further tokens at once.

    Raises:
        UnsupportedModel: a tensor that has no place in this layout.
        CheckpointError: experts, or parts of a tensor, that do not fit together.
    """
    found: dict[str, TensorInfo] = {}
    for info in tensors.values():
        layer = _LAYER.match(info.name)
        if info.name in _SETTINGS or (layer is not None and int(layer[1]) >= num_layers):
            continue
        for placed in _placed(info, tensors, layout, where):
            found[placed.name] = placed
    return found


def _placed(
    info: TensorInfo, tensors: Mapping[str, TensorInfo], layout: Layout, where: str
) -> Iterator[TensorInfo]:
    """The tensors that ``info`` is, of which none may be left."""
    match = _NAME.fullmatch(info.name)
    what, kind, layer = ("", "", None) if match is None else match.group("what", "kind", "layer")
    prefix = "" if layer is None else f"{layout.layers}.{int(layer)}."
    if prefix and (part := _EXPERTS.fullmatch(what)) is not None:
        yield from _experts(info, part[1], kind, prefix, layout)
    elif prefix and what in (_KEYS, _VALUES) and kind == "weight":
        yield from _joined(info, what, tensors, f"{prefix}{_LATENT['attn_kv_b']}.weight")
    elif name := (_layer(layout) if prefix else _top(layout)).get(what):
        ending = "" if what in ("attn_sinks", "exp_probs_b") else f".{kind}"
        # Converters drop axes of length 1.
        shape = (1, *info.shape) if what == "ffn_gate_inp_shexp" else info.shape
        yield replace(info, name=f"{prefix}{name}{ending}", shape=shape[-2:])
    else:
        named = shown(repr(info.name))
        raise UnsupportedModel(f"{where}: the tensor {named} has no place in this model")


def _top(layout: Layout) -> dict[str, str]:
    return {
        "token_embd": layout.embedding,
        "position_embd": layout.positions,
        "output_norm": layout.norm,
        "output": layout.head,
    }


def _layer(layout: Layout) -> dict[str, str]:
    """GGUF's names within a layer; those that the layout lacks are empty."""
    shared = {f"ffn_{p}_shexp": f"{layout.shared}.{p}_proj" for p in ("gate", "up", "down")}
    return {
        "attn_norm": layout.input_norm,
        "attn_q": layout.q,
        "attn_k": layout.k,
        "attn_v": layout.v,
        "attn_qkv": layout.qkv,
        "attn_output": layout.out,
        "attn_q_norm": layout.q_norm,
        "attn_k_norm": layout.k_norm,
        "attn_sinks": layout.sinks,
        # Where nothing norms the output of attention, some call the next block's norm so.
        "post_attention_norm": layout.attention_out_norm or layout.mlp_norm,
        "ffn_norm": layout.mlp_norm,
        "ffn_gate": layout.gate,
        "ffn_up": layout.gate_up or layout.up,
        "ffn_down": layout.down,
        "post_ffw_norm": layout.mlp_out_norm,
        "ffn_gate_inp": layout.router,
        "exp_probs_b": layout.correction,
        "ffn_gate_inp_shexp": layout.shared_gate,
        **shared,
        **_LATENT,
    }


def _experts(
    info: TensorInfo, part: str, kind: str, prefix: str, layout: Layout
) -> Iterator[TensorInfo]:
    """Each expert's tensors out of those of all, (num_experts, outputs, inputs), or all biases."""
    names = {"gate": layout.expert_gate, "up": layout.expert_up, "down": layout.expert_down}
    if kind == "bias":
        if part == "gate_up" or len(info.shape) != 2:
            raise CheckpointError(f"{info.file}: {info.name} has shape {list(info.shape)}")
        yield replace(info, name=f"{prefix}{layout.stacked_experts}.{names[part]}_bias")
        return
    if len(info.shape) != 3 or not all(info.shape) or info.shape[0] > _MAX_EXPERTS:
        raise CheckpointError(f"{info.file}: {info.name} has shape {list(info.shape)}, no experts'")
    halves = ("gate", "up") if part == "gate_up" else (part,)
    if info.shape[1] % len(halves):
        raise CheckpointError(f"{info.file}: {info.name} has no gate as large as its up")
    count, shape = info.shape[0], (info.shape[1] // len(halves), info.shape[2])
    # Rows are whole blocks of whatever type, so that all pieces have the same number of bytes.
    size = info.num_bytes // (count * len(halves))
    for expert in range(count):
        for at, half in enumerate(halves):
            yield replace(
                info,
                name=f"{prefix}{layout.experts}.{expert}.{names[half]}.weight",
                shape=shape,
                num_bytes=size,
                offset=info.offset + (expert * len(halves) + at) * size,
            )


def _joined(
    info: TensorInfo, what: str, tensors: Mapping[str, TensorInfo], name: str
) -> Iterator[TensorInfo]:
    """One tensor in the place of the first part; none where the whole is stored too."""
    if what == _VALUES or info.name.replace(what, "attn_kv_b") in tensors:
        return
    values = tensors.get(info.name.replace(what, _VALUES))
    fits = (
        values is not None
        and len(info.shape) == len(values.shape) == 3
        and info.shape[0] == values.shape[0]
        and info.shape[1] == values.shape[2]
    )
    if values is None or not fits:
        raise CheckpointError(f"{info.file}: {info.name} {list(info.shape)} has no {_VALUES} to it")
    heads, rank, nope = info.shape
    yield JoinedInfo(
        name=name,
        dtype=info.dtype,
        shape=(heads * (nope + values.shape[1]), rank),
        num_bytes=info.num_bytes,
        file=info.file,
        offset=info.offset,
        keys=info,
        values=values,
    )


def value_dim(num_heads: int, tensors: Mapping[str, TensorInfo], where: str) -> int:
    """The width of a head's values, which metadata spell in several ways: ``attn_output`` has it.

    Raises:
        CheckpointError: there is no such tensor, or it is not of whole heads.
    """
    info = tensors.get("blk.0.attn_output.weight")
    if info is None or math.prod(info.shape) == 0 or info.shape[-1] % num_heads:
        raise CheckpointError(f"{where}: blk.0.attn_output.weight must be of {num_heads} heads")
    return info.shape[-1] // num_heads
