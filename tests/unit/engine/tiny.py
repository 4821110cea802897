"""A tiny model without files: a configuration with seeded dummy weights."""

from typing import Any

from tupelo import Engine
from tupelo.backend import Backend
from tupelo.checkpoint import parse_hf_config
from tupelo.config import EngineConfig
from tupelo.engine.build import Source

VOCAB = 320


def tiny_source(**changes: Any) -> Source:
    """A Llama of two layers; ``changes`` go into its Hugging Face configuration."""
    values: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    config = parse_hf_config(values | changes)
    return Source(config=config, checkpoint=None, path="tiny", tokenizer_path="")


def tiny_engine(backend: Backend | None = None, **options: Any) -> Engine:
    """An engine over ``tiny_source``, with the page bookkeeping checked after every step."""
    settings: dict[str, Any] = {
        "max_total_tokens": 2048,
        "max_running_requests": 16,
        "page_size": 4,
        "check_integrity": True,
        "seed": 7,
    }
    return Engine(EngineConfig(**(settings | options)), backend=backend, source=tiny_source())
