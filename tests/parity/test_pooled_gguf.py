"""Embedding models in GGUF files: the vectors of transformers' reading of the same file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModel

from tupelo.checkpoint import open_checkpoint
from tupelo.engine import Engine
from tupelo.errors import CheckpointError, InvalidRequest, UnsupportedModel

TOLERANCE = 1e-4
PROMPTS = ([5, 9, 33, 60, 7, 21, 22], [11], [40, 41, 42])
SIZES = {
    "block_count": 2,
    "context_length": 128,
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "rope.dimension_count": 8,
    "vocab_size": 64,
}
SHAPES = {
    "attn_norm.weight": (32,), "attn_q.weight": (32, 32), "attn_k.weight": (16, 32),
    "attn_v.weight": (16, 32), "attn_output.weight": (32, 32), "ffn_norm.weight": (32,),
    "ffn_gate.weight": (64, 32), "ffn_up.weight": (64, 32), "ffn_down.weight": (32, 64),
    "attn_q.bias": (32,), "attn_k.bias": (16,), "attn_v.bias": (16,),
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a tiny seeded Qwen2 with further metadata, as converters write embedding models."""

    def written(**keys: Any) -> Path:
        rng = np.random.default_rng(11)
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, "qwen2")
        for name, value in (SIZES | keys).items():
            add = writer.add_bool if isinstance(value, bool) else writer.add_uint32
            add(f"qwen2.{name}", value)
        writer.add_float32("qwen2.attention.layer_norm_rms_epsilon", 1e-5)
        shapes = {"token_embd.weight": (64, 32), "output_norm.weight": (32,)}
        shapes |= {f"blk.{i}.{name}": shape for i in range(2) for name, shape in SHAPES.items()}
        for name, shape in shapes.items():
            values = rng.standard_normal(shape, dtype=np.float32) * 0.3
            writer.add_tensor(name, values + 1 if name.endswith("norm.weight") else values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return written


def states(path: Path, ids: list[int], *, causal: bool) -> torch.Tensor:
    """Last hidden states, (tokens, size)."""
    model = AutoModel.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    mask = None if causal else torch.zeros(1, 1, len(ids), len(ids))  # added: every token sees all
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([ids]), attention_mask=mask).last_hidden_state
    return found[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("kind", [1, 2, 3], ids=["mean", "cls", "last"])
def test_vectors(kind: int, causal: bool, write: Write) -> None:
    path = write(pooling_type=kind, **({} if causal else {"attention.causal": False}))
    with Engine(model=str(path), dtype="float32", max_total_tokens=512) as engine:
        replies = engine.encode(input_ids=PROMPTS)
        with pytest.raises(InvalidRequest, match="generates no text"):
            engine.generate(input_ids=PROMPTS[0])
    for reply, ids in zip(replies, PROMPTS, strict=True):
        found = states(path, ids, causal=causal)
        want = {1: found.mean(0), 2: found[0], 3: found[-1]}[kind]
        want = torch.nn.functional.normalize(want, dim=0)
        np.testing.assert_allclose(reply["embedding"], want.numpy(), atol=TOLERANCE, rtol=0)


def test_what_says_nothing_of_pooling_generates(write: Write) -> None:
    assert open_checkpoint(write()).config.pooling is None
    assert open_checkpoint(write(pooling_type=0)).config.pooling is None


def test_what_is_not_computed_is_refused_by_name(write: Write) -> None:
    with pytest.raises(UnsupportedModel, match="pooling_type 4"):
        open_checkpoint(write(pooling_type=4))
    with pytest.raises(CheckpointError, match=r"attention\.causal"):
        open_checkpoint(write(**{"attention.causal": 2}))
