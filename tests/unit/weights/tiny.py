"""Tiny configurations, and checkpoints of them written with the safetensors package."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tupelo.checkpoint import Checkpoint, open_checkpoint
from tupelo.models import Model, build_model

Config = dict[str, Any]

LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
TIED: Config = {**LLAMA, "tie_word_embeddings": True}
BIASED: Config = {**LLAMA, "attention_bias": True, "mlp_bias": True}
QWEN3: Config = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
GEMMA: Config = {
    **LLAMA,
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 8,
    "sliding_window": 16,
    "query_pre_attn_scalar": 8,
}

_LAYER = {
    "input_layernorm.weight": (32,),
    "post_attention_layernorm.weight": (32,),
    "self_attn.q_proj.weight": (32, 32),
    "self_attn.k_proj.weight": (16, 32),
    "self_attn.v_proj.weight": (16, 32),
    "self_attn.o_proj.weight": (32, 32),
    "mlp.gate_proj.weight": (40, 32),
    "mlp.up_proj.weight": (40, 32),
    "mlp.down_proj.weight": (32, 40),
}
_GEMMA_LAYER = {
    **_LAYER,
    "pre_feedforward_layernorm.weight": (32,),
    "post_feedforward_layernorm.weight": (32,),
    "self_attn.q_norm.weight": (8,),
    "self_attn.k_norm.weight": (8,),
}


def tensors_of(config: Config, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Seeded tensors with the names and shapes of LLAMA, TIED or GEMMA."""
    gemma = config["architectures"] == GEMMA["architectures"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (48, 32)}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in (_GEMMA_LAYER if gemma else _LAYER).items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    shapes["model.norm.weight"] = (32,)
    if not gemma and not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (48, 32)
    generator = torch.Generator().manual_seed(5)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def write(folder: Path, config: Config, *shards: dict[str, Tensor]) -> Checkpoint:
    """A checkpoint of one file, or of several with an index."""
    (folder / "config.json").write_text(json.dumps(config))
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors")
    else:
        index = {}
        for number, shard in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            save_file(shard, folder / file)
            index |= dict.fromkeys(shard, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return open_checkpoint(folder)


def by_source(model: Model) -> dict[str, Tensor]:
    """The loaded part that came from each checkpoint tensor."""
    return {
        source.name: parameter.data[source.place]
        for parameter in model.parameters()
        for source in parameter.sources
    }


def build(checkpoint: Checkpoint, dtype: str = "float32") -> Model:
    """The checkpoint's model, without weights."""
    return build_model(checkpoint.config, dtype=dtype)
