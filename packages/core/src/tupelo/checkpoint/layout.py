"""What a decoder's tensors are called in its checkpoint, and so where its norms stand."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Hugging Face's names, without ``.weight``; those of a layer below ``layers.N``.

    A norm whose name is empty does not exist. So a layer normalises a block's input, its output, or
    both.

    Attributes:
        prefix: of every name but those of heads; a published checkpoint may lack it.
        positions: the table of learned positions, where there is one.
        unused: ends of names of tensors that a checkpoint may hold and nothing reads.
        beside: beginnings of names of tensors of what stands beside the decoder, such as vision.
        transposed: projections within layers are stored as (in_features, out_features).
        qkv: where not empty, one tensor that holds q, k and v, in this order.
        gate_up: where not empty, one tensor that holds gate and up.
        input_norm, mlp_norm: before attention and before the MLP.
        attention_out_norm, mlp_out_norm: on a block's output, before it joins the residual.
        q_norm, k_norm: of heads, within the attention block.
        sinks: the whole name of the heads' sinks.
        router: the product that scores experts. correction: its bias for the choice alone, a whole
            name.
        experts: above ``N.gate_proj`` and so on.
        stacked_router, stacked_experts: the names where transformers 5 stores all experts of a
            layer as ``gate_up_proj`` and ``down_proj``.
        shared: the MLP that every token passes. shared_gate: the product that weighs it.
    """

    prefix: str = "model."
    embedding: str = "model.embed_tokens"
    positions: str = ""
    unused: tuple[str, ...] = (".rotary_emb.inv_freq",)
    beside: tuple[str, ...] = ()
    transposed: bool = False
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    qkv: str = ""
    out: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    sinks: str = "self_attn.sinks"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    gate_up: str = ""
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    correction: str = "mlp.gate.e_score_correction_bias"
    experts: str = "mlp.experts"
    stacked_router: str = "mlp.gate"
    stacked_experts: str = "mlp.experts"
    expert_gate: str = "gate_proj"
    expert_up: str = "up_proj"
    expert_down: str = "down_proj"
    shared: str = "mlp.shared_experts"
    shared_gate: str = "mlp.shared_expert_gate"
    input_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    attention_out_norm: str = ""
    mlp_out_norm: str = ""


LLAMA: Final = Layout()
SANDWICH: Final = replace(
    LLAMA,
    attention_out_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_out_norm="post_feedforward_layernorm",
)
"""Blocks are normed on both sides, as in Gemma 2 and 3."""
