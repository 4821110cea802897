"""Tiny GGUF files from tiny checkpoints, as llama.cpp's converter writes them.

Names of tensors, keys and types are those of the ``gguf`` package; what the converter changes in
tensors is written here anew.
"""

import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, Keys
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

Arrays = dict[str, np.ndarray]

ARCHITECTURES = {
    "LlamaForCausalLM": MODEL_ARCH.LLAMA,
    "MistralForCausalLM": MODEL_ARCH.LLAMA,
    "MixtralForCausalLM": MODEL_ARCH.LLAMA,
    "InternLM3ForCausalLM": MODEL_ARCH.LLAMA,
    "Mistral3ForConditionalGeneration": MODEL_ARCH.LLAMA,
    "Llama4ForCausalLM": MODEL_ARCH.LLAMA4,
    "Llama4ForConditionalGeneration": MODEL_ARCH.LLAMA4,
    "Qwen2ForCausalLM": MODEL_ARCH.QWEN2,
    "Qwen2MoeForCausalLM": MODEL_ARCH.QWEN2MOE,
    "Qwen3ForCausalLM": MODEL_ARCH.QWEN3,
    "Qwen3MoeForCausalLM": MODEL_ARCH.QWEN3MOE,
    "GemmaForCausalLM": MODEL_ARCH.GEMMA,
    "Gemma2ForCausalLM": MODEL_ARCH.GEMMA2,
    "Gemma3ForCausalLM": MODEL_ARCH.GEMMA3,
    "Gemma3ForConditionalGeneration": MODEL_ARCH.GEMMA3,
    "Phi3ForCausalLM": MODEL_ARCH.PHI3,
    "GraniteForCausalLM": MODEL_ARCH.GRANITE,
    "Olmo2ForCausalLM": MODEL_ARCH.OLMO2,
    "Olmo3ForCausalLM": MODEL_ARCH.OLMO2,
    "GlmForCausalLM": MODEL_ARCH.CHATGLM,
    "Glm4ForCausalLM": MODEL_ARCH.GLM4,
    "Glm4MoeForCausalLM": MODEL_ARCH.GLM4_MOE,
    "Starcoder2ForCausalLM": MODEL_ARCH.STARCODER2,
    "CohereForCausalLM": MODEL_ARCH.COMMAND_R,
    "Cohere2ForCausalLM": MODEL_ARCH.COHERE2,
    "GPT2LMHeadModel": MODEL_ARCH.GPT2,
    "DeepseekV2ForCausalLM": MODEL_ARCH.DEEPSEEK2,
    "DeepseekV3ForCausalLM": MODEL_ARCH.DEEPSEEK2,
    "MiniCPM3ForCausalLM": MODEL_ARCH.MINICPM3,
    "GptOssForCausalLM": MODEL_ARCH.GPT_OSS,
}
"""What the converter makes of each of transformers' classes."""

KEYS = {
    "hidden_size": Keys.LLM.EMBEDDING_LENGTH,
    "n_embd": Keys.LLM.EMBEDDING_LENGTH,
    "num_hidden_layers": Keys.LLM.BLOCK_COUNT,
    "n_layer": Keys.LLM.BLOCK_COUNT,
    "intermediate_size": Keys.LLM.FEED_FORWARD_LENGTH,
    "intermediate_size_mlp": Keys.LLM.FEED_FORWARD_LENGTH,
    "n_inner": Keys.LLM.FEED_FORWARD_LENGTH,
    "max_position_embeddings": Keys.LLM.CONTEXT_LENGTH,
    "n_positions": Keys.LLM.CONTEXT_LENGTH,
    "num_attention_heads": Keys.Attention.HEAD_COUNT,
    "n_head": Keys.Attention.HEAD_COUNT,
    "num_key_value_heads": Keys.Attention.HEAD_COUNT_KV,
    "rms_norm_eps": Keys.Attention.LAYERNORM_RMS_EPS,
    "layer_norm_eps": Keys.Attention.LAYERNORM_EPS,
    "layer_norm_epsilon": Keys.Attention.LAYERNORM_EPS,
    "norm_epsilon": Keys.Attention.LAYERNORM_EPS,
    "head_dim": Keys.Attention.KEY_LENGTH,
    "sliding_window": Keys.Attention.SLIDING_WINDOW,
    "attention_chunk_size": Keys.Attention.SLIDING_WINDOW,
    "floor_scale": Keys.Attention.TEMPERATURE_LENGTH,
    "attn_scale": Keys.Attention.TEMPERATURE_SCALE,
    "attention_multiplier": Keys.Attention.SCALE,
    "q_lora_rank": Keys.Attention.Q_LORA_RANK,
    "kv_lora_rank": Keys.Attention.KV_LORA_RANK,
    "num_local_experts": Keys.LLM.EXPERT_COUNT,
    "num_experts": Keys.LLM.EXPERT_COUNT,
    "n_routed_experts": Keys.LLM.EXPERT_COUNT,
    "num_experts_per_tok": Keys.LLM.EXPERT_USED_COUNT,
    "moe_intermediate_size": Keys.LLM.EXPERT_FEED_FORWARD_LENGTH,
    "shared_expert_intermediate_size": Keys.LLM.EXPERT_SHARED_FEED_FORWARD_LENGTH,
    "n_shared_experts": Keys.LLM.EXPERT_SHARED_COUNT,
    "routed_scaling_factor": Keys.LLM.EXPERT_WEIGHTS_SCALE,
    "norm_topk_prob": Keys.LLM.EXPERT_WEIGHTS_NORM,
    "n_group": Keys.LLM.EXPERT_GROUP_COUNT,
    "topk_group": Keys.LLM.EXPERT_GROUP_USED_COUNT,
    "interleave_moe_layer_step": Keys.LLM.INTERLEAVE_MOE_LAYER_STEP,
    "embedding_multiplier": Keys.LLM.EMBEDDING_SCALE,
    "residual_multiplier": Keys.LLM.RESIDUAL_SCALE,
    "logits_scaling": Keys.LLM.LOGIT_SCALE,
    "logit_scale": Keys.LLM.LOGIT_SCALE,
    "attn_logit_softcapping": Keys.LLM.ATTN_LOGIT_SOFTCAPPING,
    "final_logit_softcapping": Keys.LLM.FINAL_LOGIT_SOFTCAPPING,
}
"""Fields of configurations that the converter copies."""

_ROTATED_IN_PAIRS = (MODEL_ARCH.LLAMA, MODEL_ARCH.GRANITE)  # llama.cpp's "norm" rope
_GATING = {MODEL_ARCH.GLM4_MOE: 2, MODEL_ARCH.DEEPSEEK2: 1}


def write_gguf(
    folder: Path,
    architecture: str,
    *,
    quantised: dict[str, GGMLQuantizationType] | None = None,
    whole_kv: bool = False,
) -> Path:
    """Convert the checkpoint in ``folder``; returns the file, which is beside it.

    Args:
        quantised: patterns of GGUF names, and the type to store these tensors in.
        whole_kv: store DeepSeek's ``kv_b_proj`` as one tensor, as older files do.
    """
    arch = ARCHITECTURES[architecture]
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config") or config
    tensors = {n: t.float().numpy() for n, t in load_file(folder / "model.safetensors").items()}
    num_layers = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(arch, num_layers)
    path = folder.with_suffix(".gguf")
    writer = gguf.GGUFWriter(path, MODEL_ARCH_NAMES[arch])
    for key, value in _metadata(config, arch, architecture).items():
        _add(writer, key.format(arch=MODEL_ARCH_NAMES[arch]), value)
    stored = _converted(tensors, config, arch, whole_kv=whole_kv)
    found = {}
    for name, array in stored.items():
        to = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if to is None and name.startswith("rope_"):
            to = name
        assert to is not None, f"the gguf package has no name for {name}"
        found[to] = array
    for name, array in found.items():
        kind = next((t for p, t in (quantised or {}).items() if re.search(p, name)), None)
        if kind is None:
            writer.add_tensor(name, np.ascontiguousarray(array))
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(config: dict[str, Any], arch: MODEL_ARCH, architecture: str) -> dict[str, Any]:
    values = {KEYS[k]: v for k, v in config.items() if k in KEYS and v is not None}
    if arch is MODEL_ARCH.LLAMA4:
        values[Keys.LLM.FEED_FORWARD_LENGTH] = config["intermediate_size_mlp"]
        values[Keys.LLM.EXPERT_FEED_FORWARD_LENGTH] = config["intermediate_size"]
    if arch is MODEL_ARCH.GPT_OSS:
        values[Keys.LLM.EXPERT_FEED_FORWARD_LENGTH] = config["intermediate_size"]
    if arch in _GATING:
        sigmoid = architecture == "DeepseekV3ForCausalLM" or _GATING[arch] == 2
        values[Keys.LLM.EXPERT_GATING_FUNC] = 2 if sigmoid else 1
    if architecture.startswith(("Gemma3", "Olmo3")):
        flags = [kind == "sliding_attention" for kind in config["layer_types"]]
        values[Keys.Attention.SLIDING_WINDOW_PATTERN] = flags
    heads = config.get("num_attention_heads") or config["n_head"]
    width = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    if "kv_lora_rank" in config:
        values |= _latent_sizes(config, arch)
        width = config["qk_rope_head_dim"]
    elif config.get("head_dim"):
        values[Keys.Attention.VALUE_LENGTH] = width
    return {**values, **_rope_keys(config, width)}


def _latent_sizes(config: dict[str, Any], arch: MODEL_ARCH) -> dict[str, Any]:
    rope, rank = config["qk_rope_head_dim"], config["kv_lora_rank"]
    width, value = config["qk_nope_head_dim"] + rope, config["v_head_dim"]
    if arch is MODEL_ARCH.MINICPM3:
        return {Keys.Attention.KEY_LENGTH: width}
    return {
        Keys.Attention.HEAD_COUNT_KV: 1,
        Keys.Attention.KEY_LENGTH: rank + rope,
        Keys.Attention.VALUE_LENGTH: rank,
        Keys.Attention.KEY_LENGTH_MLA: width,
        Keys.Attention.VALUE_LENGTH_MLA: value,
    }


def _rope_keys(config: dict[str, Any], width: int) -> dict[str, Any]:
    rope = config.get("rope_parameters")
    if rope is None:
        return {}
    local: dict[str, Any] = {}
    if "full_attention" in rope:
        local = {"{arch}.rope.freq_base_swa": float(rope["sliding_attention"]["rope_theta"])}
        rope = rope["full_attention"]
    kind = rope["rope_type"]
    share = rope.get("partial_rotary_factor", 1.0)
    keys: dict[str, Any] = {
        **local,
        Keys.Rope.DIMENSION_COUNT: int(width * share),
        Keys.Rope.FREQ_BASE: float(rope["rope_theta"]),
    }
    original = rope.get("original_max_position_embeddings")
    if kind in ("linear", "yarn"):
        keys |= {Keys.Rope.SCALING_TYPE: kind, Keys.Rope.SCALING_FACTOR: float(rope["factor"])}
    if kind == "yarn":
        keys[Keys.Rope.SCALING_ORIG_CTX_LEN] = original
        if rope.get("mscale_all_dim"):
            keys[Keys.Rope.SCALING_YARN_LOG_MUL] = 0.1 * rope["mscale_all_dim"]
    if kind == "longrope":
        original = original or config["original_max_position_embeddings"]
        stretched = config["max_position_embeddings"] / original
        factor = math.sqrt(1 + math.log(stretched) / math.log(original))
        keys |= {Keys.Rope.SCALING_ORIG_CTX_LEN: original, Keys.Rope.SCALING_ATTN_FACTOR: factor}
    return keys


def _converted(
    tensors: Arrays, config: dict[str, Any], arch: MODEL_ARCH, *, whole_kv: bool
) -> Arrays:
    """What the converter hands to its table of names."""
    out: Arrays = {}
    experts: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for name, array in tensors.items():
        name = name.removeprefix("language_model.")
        if name.startswith(("vision_", "multi_modal")):
            continue
        if match := re.fullmatch(r"(.+\.experts)\.(\d+)\.(\w+)\.weight", name):
            experts[f"{match[1]}.{match[3]}.weight"][int(match[2])] = array
        elif name.endswith(("experts.gate_up_proj", "experts.down_proj")) or "proj_bias" in name:
            out |= _stacked(name, array, arch)
        elif name.endswith("kv_b_proj.weight") and arch is MODEL_ARCH.DEEPSEEK2 and not whole_kv:
            out |= _split_kv(name, array, config)
        else:
            out[_renamed(name)] = _changed(name, array, config, arch)
    for name, parts in experts.items():
        merged = np.stack([parts[i] for i in range(len(parts))])
        out[
            name.replace("model.", "").replace("block_sparse_moe", "feed_forward")
            if arch is MODEL_ARCH.LLAMA
            else name
        ] = merged
    return {**out, **_divisors(config)}


def _renamed(name: str) -> str:
    if name.endswith(".sinks"):
        return f"{name}.weight"
    return name.replace("e_score_correction_bias", "e_score_correction.bias")


def _changed(name: str, array: np.ndarray, config: dict[str, Any], arch: MODEL_ARCH) -> np.ndarray:
    if arch is MODEL_ARCH.GPT2 and re.search(r"\.c_\w+\.weight$", name):
        return array.T
    if MODEL_ARCH_NAMES[arch].startswith("gemma") and name.endswith("norm.weight"):
        return array + 1
    if arch in _ROTATED_IN_PAIRS and (match := re.search(r"\.([qk])_proj\.(weight|bias)$", name)):
        heads = config["num_attention_heads" if match[1] == "q" else "num_key_value_heads"]
        halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
        return halves.swapaxes(1, 2).reshape(array.shape)
    return array.squeeze()


def _stacked(name: str, array: np.ndarray, arch: MODEL_ARCH) -> Arrays:
    """Experts that transformers keeps as (num_experts, inputs, outputs), gate and up in one."""
    if name.endswith("bias"):
        name = name.replace("_bias", ".bias")
    else:
        name, array = f"{name}.weight", array.swapaxes(1, 2)
    if "gate_up_proj" not in name:
        return {name: array}
    half = array.shape[1] // 2
    turns = arch is MODEL_ARCH.GPT_OSS
    gate, up = (array[:, ::2], array[:, 1::2]) if turns else (array[:, :half], array[:, half:])
    return {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}


def _split_kv(name: str, array: np.ndarray, config: dict[str, Any]) -> Arrays:
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    heads = array.reshape(config["num_attention_heads"], nope + value, array.shape[-1])
    return {
        name.replace("kv_b", "k_b"): heads[:, :nope].swapaxes(1, 2),
        name.replace("kv_b", "v_b"): heads[:, nope:],
    }


def _divisors(config: dict[str, Any]) -> Arrays:
    """Divisors of frequencies: of Llama 3's scaling one set, of longrope two."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        read = AutoConfig.for_model(**config)
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](read, torch.device("cpu"))
        plain = rope["rope_theta"] ** (-torch.arange(len(scaled)) / len(scaled))
        return {"rope_freqs.weight": (plain / scaled).numpy()}
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"], np.float32)
            for kind in ("short", "long")
        }
    return {}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
