"""Tiny random checkpoints of models that pool, made with transformers."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tests.parity.families import FAMILIES, VOCAB_SIZE, randomise
from torch import Tensor
from transformers import PreTrainedModel

from tupelo.backend import StepInputs
from tupelo.batch import Batch

LABELS = {0: "bad", 1: "fair", 2: "good"}

ENCODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    "pad_token_id": 1,
}
ENCODER_FIELDS: dict[str, dict[str, Any]] = {
    "Bert": {"pad_token_id": 0, "type_vocab_size": 2},
    "Roberta": {"type_vocab_size": 1},
    "XLMRoberta": {"type_vocab_size": 1},
    "ModernBert": {"local_attention": 12, "global_attn_every_n_layers": 3, "norm_bias": False},
}
"""Sizes of each family of the registry, by the stem of its name."""


def prompts(lengths: tuple[int, ...], seed: int = 3) -> list[list[int]]:
    """Token ids above the special ones."""
    draw = random.Random(seed)
    return [[draw.randrange(5, VOCAB_SIZE) for _ in range(n)] for n in lengths]


def ragged_step(rows: Sequence[Sequence[int]]) -> StepInputs:
    """A step of whole inputs for a model without page groups."""
    lengths = np.array([len(row) for row in rows], np.int32)
    ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    empty = np.empty(0, np.int32)
    ids = np.array([token for row in rows for token in row], np.int32)
    at = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    host = Batch(
        step=1, slots=np.arange(len(rows), dtype=np.int32), num_decode_rows=0, cu_seqlens_q=ends,
        seq_lens=lengths, input_ids=ids, positions=at, slot_mapping=(), page_deltas=(),
        logits_rows=empty, sample_rows=empty,
    )  # fmt: skip
    return StepInputs(
        host=host,
        input_ids=torch.from_numpy(ids).long(),
        positions=torch.from_numpy(at).long(),
        cu_seqlens_q=torch.from_numpy(ends),
        seq_lens=torch.from_numpy(lengths),
        slots=torch.arange(len(rows)),
        token_rows=torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)),
        slot_mapping=(),
        page_tables=(),
    )


def make(architecture: str, fields: Mapping[str, Any], folder: Path) -> PreTrainedModel:
    """Write a seeded model into ``folder``, and return it as it is read from there."""
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**fields)
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    randomise(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):  # which randomise takes for a bias
                parameter += 1.0
    model.save_pretrained(folder)
    loaded: PreTrainedModel = model_class.from_pretrained(folder, attn_implementation="eager")
    return loaded.eval()


def decoder_fields(architecture: str) -> dict[str, Any]:
    """The sizes that ``tests/parity/families.py`` has for an architecture."""
    family = next(f for f in FAMILIES if f.architecture == architecture)
    config = family.reference().config.to_dict()
    for name in ("architectures", "dtype", "transformers_version", "id2label", "label2id"):
        config.pop(name, None)
    return dict(config)


@dataclass(frozen=True)
class Sentence:
    """Sentence-transformers' files for a checkpoint.

    Attributes:
        pooling: the mode that is switched on, as in ``pooling_mode_mean_tokens``.
        dense: layers as (out_features, activation).
    """

    pooling: str = "mean_tokens"
    normalize: bool = True
    dense: tuple[tuple[int, str], ...] = ()
    max_length: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, hidden_size: int) -> list[tuple[Tensor, Tensor]]:
        """Write them; returns weight and bias of each dense layer."""
        kinds = ["Transformer", "Pooling", *["Dense"] * len(self.dense)]
        kinds += ["Normalize"] * self.normalize
        modules = [
            {
                "idx": i,
                "name": str(i),
                "path": f"{i}_{kind}" if i else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for i, kind in enumerate(kinds)
        ]
        _write(folder / "modules.json", modules)
        pooling = {"word_embedding_dimension": hidden_size, f"pooling_mode_{self.pooling}": True}
        _write(folder / "1_Pooling" / "config.json", {**pooling, **self.more})
        if self.max_length:
            _write(folder / "sentence_bert_config.json", {"max_seq_length": self.max_length})
        made, size = [], hidden_size
        for index, (out, activation) in enumerate(self.dense):
            generator = torch.Generator().manual_seed(index)
            weight = torch.randn(out, size, generator=generator) * size**-0.5
            bias = torch.randn(out, generator=generator) * 0.1
            path = folder / f"{2 + index}_Dense"
            names = {"in_features": size, "out_features": out, "bias": True}
            act = f"torch.nn.modules.activation.{activation}"
            _write(path / "config.json", {**names, "activation_function": act})
            from safetensors.torch import save_file

            save_file({"linear.weight": weight, "linear.bias": bias}, path / "model.safetensors")
            made.append((weight, bias))
            size = out
        return made


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value))


def edit_config(folder: Path, **changes: Any) -> None:
    """Change fields of a checkpoint's ``config.json``; None takes one out."""
    file = folder / "config.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
