"""Model folders for servers that only need to be quick: a configuration and a tokenizer."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB = 320
CORPUS = [
    "one two three, one and two",
    "red green blue",
    "the sea é 日本語 of the day",
    "a b c d e",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def write_tiny_model(folder: Path) -> Path:
    """Write it; to be served with ``--load-format dummy``. Its words are ``w0`` to ``w319``."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(folder)
    return _write_config(folder, VOCAB)


def write_letter_model(folder: Path) -> PreTrainedTokenizerFast:
    """Write a model whose tokens are bytes and pieces of ``CORPUS``; returns transformers' own
    reading of its tokenizer. It chats, and text of any kind can be made of its tokens."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["</s>", "<s>"],
        show_progress=False,
    )
    pieces.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="</s>", bos_token="<s>")
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    _write_config(folder, len(made))
    return made


def _write_config(folder: Path, vocab_size: int) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
