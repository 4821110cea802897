"""A model folder for measuring: the Llama-3.1-8B shape, and a tokenizer that was never trained.

It is served with ``--load-format dummy``. The tokenizer has as many tokens as the model, each of
them some bytes, so that text is made of ids as it is for a real one.
"""

import json
import random
import string
import sys
from pathlib import Path
from typing import Any

import gpu_workloads as workloads
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": workloads.VOCAB,
    "hidden_size": workloads.MODEL["hidden"],
    "intermediate_size": workloads.MODEL["ffn"],
    "num_hidden_layers": workloads.MODEL["layers"],
    "num_attention_heads": workloads.MODEL["heads"],
    "num_key_value_heads": workloads.MODEL["kv_heads"],
    "head_dim": workloads.MODEL["head_dim"],
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": workloads.MODEL["rope_theta"],
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 128001,
}


def write_model(folder: Path, **changes: Any) -> Path:
    """Configuration and tokenizer; ``changes`` go into the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config = LLAMA_8B | changes
    (folder / "config.json").write_text(json.dumps(config))
    made_up(config["vocab_size"]).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def made_up(size: int) -> Tokenizer:
    """All bytes, then words of two to nine letters, half of which follow a space."""
    draw = random.Random(7)
    vocab = {
        token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    while len(vocab) < size:
        letters = "".join(draw.choices(string.ascii_lowercase, k=draw.randrange(2, 10)))
        vocab.setdefault(draw.choice(("", "\u0120")) + letters, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


if __name__ == "__main__":
    print(write_model(Path(sys.argv[1])))
