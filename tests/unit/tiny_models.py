"""Shapes of tiny decoders of three kinds, which backends' tests run whole engines of."""

from typing import Any

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3, 2, 3], [8, 4]]
GREEDY = {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}


def configs(head_dim: int, max_tokens: int = 128) -> dict[str, dict[str, Any]]:
    """What their checkpoints' ``config.json`` would say, by kind: dense, with experts, and with a
    window in every second layer.

    Args:
        head_dim: that the backend's kernels have. max_tokens: of a request.
    """
    shape = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "max_position_embeddings": max_tokens,
        "rms_norm_eps": 1e-5,
    }
    kinds: dict[str, dict[str, Any]] = {
        "dense": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
        "moe": {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        "windowed": {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 6,
            "query_pre_attn_scalar": head_dim,
            "hidden_activation": "gelu_pytorch_tanh",
        },
    }
    return {kind: shape | more for kind, more in kinds.items()}
