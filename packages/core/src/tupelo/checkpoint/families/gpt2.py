"""GPT-2: learned positions, layer norms, an MLP without gate, projections stored transposed.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
"""

from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import Family
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.layout import Layout
from tupelo.checkpoint.rope import no_rope
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_LAYOUT: Final = Layout(
    prefix="transformer.",
    embedding="transformer.wte",
    positions="transformer.wpe",
    layers="transformer.h",
    norm="transformer.ln_f",
    unused=(".attn.bias", ".attn.masked_bias"),
    transposed=True,
    qkv="attn.c_attn",
    out="attn.c_proj",
    up="mlp.c_fc",
    down="mlp.c_proj",
    input_norm="ln_1",
    mlp_norm="ln_2",
)


def _gpt2(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if fields.flag(name, False):
            raise UnsupportedModel(f"{fields.where}: {name} is not supported")
    scaled = fields.flag("scale_attn_weights", True)
    return {
        "attention_bias": True,
        "attention_output_bias": True,
        "attention_scale": base.attention_scale if scaled else 1.0,
        "mlp_bias": True,
        "layer_norm": True,
        "norm_bias": True,
        "gated_mlp": False,
        "learned_positions": base.max_position_embeddings,
        "ropes": {"global": no_rope(base.head_dim, base.max_position_embeddings)},
        "layout": _LAYOUT,
    }


GPT2: Final = Family(
    model_type="gpt2",
    gguf=GGUFForm(architecture="gpt2"),
    mlp_ratio=4,
    aliases={
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "n_inner": "intermediate_size",
        "activation_function": "hidden_act",
        "layer_norm_epsilon": "rms_norm_eps",
    },
    defaults={
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
        "hidden_act": "gelu_new",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    refine=_gpt2,
)
