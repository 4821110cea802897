"""A tiny model whose tokens are bytes, so that any text, whole or broken, can come out of it."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCAB = 320
CONTEXT = 512

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (
    "th", "he", "in", "er", "an", "re", "on", "at", "en", "nd", "ti", "es", "or", "te", "of", "ed",
    "is", "it", "al", "ar", "st", "to", "nt", "ng", "se", "ha", "as", "ou", "io", "le", "ve", "co",
    "me", "de", "hi", "ri", "ro", "ic", "ne", "ea", "ra", "ce", "li", "ch", "ll", "be", "ma", "si",
    "om", "ur", "ab", "Th", "An", '":', '",', "{\"", "\"}", "[{", "}]", "10", "00",
)  # fmt: skip
"""Pairs that are one token: with the bytes and the special tokens they fill the vocabulary."""

CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}


def write_byte_model(folder: Path, chat_template: str = CHAT_TEMPLATE) -> Path:
    """Write it; to be served with ``--load-format dummy``.

    Ids 0 to 2 are ``SPECIAL``, id 3 + b is the byte b, then come ``MERGES``.
    """
    alphabet = byte_letters()
    vocab = {token: number for number, token in enumerate((*SPECIAL, *alphabet, *MERGES))}
    assert len(vocab) == VOCAB
    pairs: list[tuple[str, str]] = [(pair[0], pair[1]) for pair in MERGES]
    backend = Tokenizer(models.BPE(vocab, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[0])
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write_weights(folder: Path) -> None:
    """Seeded weights for ``CONFIG``, for where dummy weights would not do."""
    size, inner, keys = 64, 96, 32
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, size),
        "model.norm.weight": (size,),
    }
    for layer in range(2):
        for name, shape in {
            "input_layernorm": (size,),
            "post_attention_layernorm": (size,),
            "self_attn.q_proj": (size, size),
            "self_attn.k_proj": (keys, size),
            "self_attn.v_proj": (keys, size),
            "self_attn.o_proj": (size, size),
            "mlp.gate_proj": (inner, size),
            "mlp.up_proj": (inner, size),
            "mlp.down_proj": (size, inner),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    random = np.random.default_rng(7)
    tensors = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it shows, else the next above 255.

    Source: Radford et al., 2019, the encoder published with the model.
    """
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters, above = [], 256
    for byte in range(256):
        letters.append(chr(byte) if byte in shown else chr(above))
        above += byte not in shown
    return letters


def bytes_of(token: int) -> bytes:
    """What a token of the model stands for; a special token for nothing."""
    if token < len(SPECIAL):
        return b""
    if token < len(SPECIAL) + 256:
        return bytes([token - len(SPECIAL)])
    return MERGES[token - len(SPECIAL) - 256].encode()


def token_of(byte: int) -> int:
    """The token of one byte."""
    return len(SPECIAL) + byte
